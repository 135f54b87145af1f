"""python -m mmedge"""

from mmedge.cli import main

main()
