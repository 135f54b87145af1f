// In the place of TensorRT's library: who finds its loggers, and the version it says it is of.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

class Loggers {
 public:
  // `version` as getInferLibVersion() has it.
  static void set_version(int version);
  static nvinfer1::ILoggerFinder* finder();
  // What was logged since it was last asked.
  static std::vector<std::string> take_messages();
};
