#include "tensorrt_loggers.h"

#include <utility>

namespace {

int library_version = 0;
std::vector<std::string> messages;

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) messages.emplace_back(message);
  }
};

class Finder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return &logger_; }

 private:
  Logger logger_;
};

}  // namespace

void Loggers::set_version(int version) { library_version = version; }

nvinfer1::ILoggerFinder* Loggers::finder() {
  static Finder finder;
  return &finder;
}

std::vector<std::string> Loggers::take_messages() { return std::exchange(messages, {}); }

extern "C" int32_t getInferLibVersion() noexcept { return library_version; }
