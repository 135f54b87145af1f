# Sourced by the scripts that take Debian packages into build/: an apt with a state of its own, so that nothing is
# installed and the system's package lists stay as they are.

# use_own_apt SUITE ARCHITECTURE: makes $state, removed at exit, and the command own_apt.
use_own_apt() {
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -n 1)
  if [ -z "$mirror" ]; then
    echo "No Debian mirror among apt's sources." >&2
    return 1
  fi
  architecture=$2
  state=$(mktemp -d)
  trap 'rm -rf "$state"' EXIT
  chmod 755 "$state"
  mkdir -p "$state/lists/partial" "$state/archives/partial"
  : > "$state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" > "$state/sources.list"
  own_apt update
}

# A mirror may lag behind: its files are signed all the same.
own_apt() {
  apt-get -qq -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root \
    -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- "$@"
}
