// What loading a model takes of a GPU, in words: the plan before it, or why not and what would fit.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/load_plan.h"
#include "models/catalogue.h"

namespace apud {

struct LoadSubject {
  std::string model;   // as the user knows it
  std::string device;  // "NVIDIA H200"
  LoadRequest request;
};

/// "NVIDIA H200: context 8192 x 2, weights 4.1 GB + …: 31.2 of 140.0 GB free"
std::string load_plan_line(const LoadSubject& subject, const LoadPlan& plan);
/// kBusy, naming what is needed; its advice is the ladder, most useful first, then the largest
/// chat model of the catalogue whose file is at most a third of the device.
Error load_refusal(const LoadSubject& subject, const LoadPlan& plan,
                   const std::vector<CatalogueEntry>& catalogue);

}  // namespace apud
