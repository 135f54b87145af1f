// What libmmedge itself asks of libnvinfer.so: its version, 10.3.0.30.
extern "C" {
int getInferLibVersion() { return 100300; }
int getInferLibBuildVersion() { return 30; }
}
