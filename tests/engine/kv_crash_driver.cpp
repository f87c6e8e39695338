// Asks a fake model one question over a KV cache folder and waits until its pages are written:
// kv_crash_driver FOLDER TOKENS [leave]; with "leave" it does not wait but leaves as a program
// does, and prints the milliseconds that took. Prints the answer's ids and why nothing was saved,
// if so, in one pwrite, which the crash test's faults spare.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "engine/engine.h"
#include "tests/support/fake_model.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  using namespace apud;
  auto model = std::make_shared<test::FakeModel>();
  EngineOptions options;
  options.context = 4096;
  options.disk.folder = argv[1];
  options.disk.free_share = 1;
  options.disk.always_restore = true;
  auto executor =
      std::make_unique<test::FakeExecutor>(model->program(), std::make_shared<test::FakeLog>());
  executor->end_chance = 0;
  auto engine = std::make_unique<Engine>(model, std::move(executor), options);
  Request request;
  for (int i = 0; i < std::atoi(argv[2]); ++i) request.prompt.push_back((i * 7 + i * i % 5) % 251);
  request.max_tokens = 20;
  Answer answer = engine->generate(request);
  if (argc > 3) {
    auto start = std::chrono::steady_clock::now();
    engine.reset();
    auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - start);
    std::string line = std::to_string(ms.count()) + "\n";
    return pwrite(1, line.data(), line.size(), 0) > 0 ? 0 : 99;
  }
  std::string problem = engine->save_pending(5000);
  if (problem.empty()) problem = answer.receipt.not_saved;
  std::string line;
  for (int32_t token : answer.best().tokens) line += std::to_string(token) + " ";
  line += "cached " + std::to_string(answer.receipt.usage.cached) + "\n" + problem + "\n";
  return pwrite(1, line.data(), line.size(), 0) == static_cast<ssize_t>(line.size()) ? 0 : 99;
}
