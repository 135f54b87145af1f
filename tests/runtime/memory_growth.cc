// Resident memory must level off: 50 clip lengths in turn for 5000 runs grow it by at most 10 MB after the first 500,
// whether the engine sees a window of them or all of their samples; 50 reloads of a model by at most 5 MB.
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

std::string bundle(const char* name) {
  const char* folder = std::getenv("MMEDGE_TEST_BUNDLES");
  return std::string(folder ? folder : ".") + "/" + name;
}

// What 5000 runs of 50 lengths in turn add after the first 500.
double growth_of_runs(const std::string& path, int rate) {
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
    audio.sample_rate = rate;
    audio.samples = samples.data();
    audio.frames = 1000 * (1 + run % 50);
    mme_result result{};
    result.struct_size = sizeof result;
    require(mme_session_set_audio(session, "audio", &audio));
    require(mme_session_set_absent(session, "image"));
    require(mme_session_run(session, &result));
  }
  const double growth = resident_mb() - settled;
  require(mme_session_destroy(session));
  require(mme_model_close(model));
  return growth;
}

}  // namespace

int main() {
  const std::string digits = bundle("digits.mme");
  bool good = within("4500 runs of 50 lengths, windows", growth_of_runs(digits, 16000), 10);
  good = within("4500 runs of 50 lengths, whole", growth_of_runs(bundle("varying.mme"), 8000), 10) && good;
  double settled = 0;
  for (int load = 0; load < 60; ++load) {
    if (load == 10) settled = resident_mb();
    mme_model* model = nullptr;
    require(mme_model_open(digits.c_str(), nullptr, &model));
    require(mme_model_close(model));
  }
  good = within("50 reloads", resident_mb() - settled, 5) && good;
  return good ? 0 : 1;
}
