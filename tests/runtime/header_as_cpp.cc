#include "mmedge.h"

mme_status open_from_cpp(mme_model** model) { return mme_model_open("none.mme", nullptr, model); }
