// What libmmedge itself asks of libnvinfer.so: its version, such as 10.3.0.30.
extern "C" {
int getInferLibVersion() { return VERSION; }
int getInferLibBuildVersion() { return 30; }
}
