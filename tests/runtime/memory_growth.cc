// Resident memory must level off: 50 clip lengths in turn for 5000 runs grow it by at most 10 MB after the first 500,
// 50 reloads of a model by at most 5 MB.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "mmedge.h"

namespace {

double resident_mb() {
  long total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / 1e6;
}

void require(mme_status status) {
  if (status == MME_OK) return;
  std::fprintf(stderr, "%s: %s\n", mme_status_name(status), mme_last_error());
  std::exit(1);
}

bool within(const char* what, double growth, double limit) {
  std::printf("%s: %+.2f MB (at most %.0f)\n", what, growth, limit);
  return growth <= limit;
}

}  // namespace

int main() {
  const char* folder = std::getenv("MMEDGE_TEST_BUNDLES");
  const std::string path = std::string(folder ? folder : ".") + "/digits.mme";
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  require(mme_model_open(path.c_str(), nullptr, &model));
  require(mme_session_create(model, nullptr, &session));
  const std::vector<float> samples(50 * 1000, 0.1F);
  double settled = 0;
  for (size_t run = 0; run < 5000; ++run) {
    if (run == 500) settled = resident_mb();
    mme_audio audio{};
    audio.struct_size = sizeof audio;
    audio.format = MME_AUDIO_FLOAT32;
    audio.channels = 1;
    audio.sample_rate = 16000;
    audio.samples = samples.data();
    audio.frames = 1000 * (1 + run % 50);
    mme_result result{};
    result.struct_size = sizeof result;
    require(mme_session_set_audio(session, "audio", &audio));
    require(mme_session_set_absent(session, "image"));
    require(mme_session_run(session, &result));
  }
  bool good = within("4500 runs of 50 lengths", resident_mb() - settled, 10);
  require(mme_session_destroy(session));
  require(mme_model_close(model));
  for (int load = 0; load < 60; ++load) {
    if (load == 10) settled = resident_mb();
    require(mme_model_open(path.c_str(), nullptr, &model));
    require(mme_model_close(model));
  }
  good = within("50 reloads", resident_mb() - settled, 5) && good;
  return good ? 0 : 1;
}
