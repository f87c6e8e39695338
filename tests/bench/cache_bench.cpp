// Figures of the conversation cache over the Backend seam, the same code on CPU and GPU:
//   cache_bench [--cuda] [--threads N] [--model FILE | --shape SHAPE:FORMAT] [--folder DIR]
//   [--prompt N]
//               [WORK…]
// WORK: turns, second, host, disk, same, beams (all without any). Times are wall clock and, in
// brackets, processor time of this thread: with --threads 1 the second is what counts on a machine
// that does other work too. Models of a shape have random weights and need no file. DIR should lie
// on the disk to be measured.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <set>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/kv_pages.h"
#include "kernels/gpu_bench.h"
#include "tests/support/naive_beams.h"
#include "tests/support/recorder.h"
#include "tests/support/shape_model.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Arguments {
  bool cuda = false;
  std::string model, shape = "qwen2.5-1.5b:q4_k_m", folder;
  int prompt = 3500;
  int threads = 0;  // of the CPU executor; 0: its own choice
  std::set<std::string> works;
  bool wants(const char* work) const { return works.empty() || works.contains(work); }
};

class Bench {
 public:
  explicit Bench(const Arguments& a) : a_(a) {
    if (a.model.empty()) {
      model_ = std::make_shared<test::ShapeModel>(a.shape);
    } else {
      model_ = load_model(a.model);
    }
    const Program& program = model_->program();
    vocab_ = program.values[static_cast<size_t>(program.result)].cols;
  }

  std::unique_ptr<Executor> executor(bool deterministic = false) const {
    CpuOptions cpu;
    cpu.threads = a_.threads;
    if (!a_.cuda) return make_cpu_executor(model_->program(), model_->weights(), cpu);
    CudaOptions options;
    options.deterministic = deterministic;
    return make_cuda_executor(model_->program(), model_->weights(), options);
  }

  std::unique_ptr<Engine> engine(const Path& folder, bool always_restore = false) const {
    EngineOptions options;
    options.context = 4096;
    options.disk.folder = folder;
    options.disk.free_share = 1;
    options.disk.always_restore = always_restore;
    if (a_.cuda) options.host_bytes = 2ull << 30;  // as the commands do
    return std::make_unique<Engine>(model_, executor(), options);
  }

  std::vector<int32_t> tokens(int n, uint64_t seed) const {
    std::mt19937_64 rng(seed);
    std::vector<int32_t> out;
    for (int i = 0; i < n; ++i)
      out.push_back(static_cast<int32_t>(rng() % static_cast<uint64_t>(std::min(vocab_, 30000))));
    return out;
  }

  Answer ask(Engine& engine, std::vector<int32_t> prompt, int max_tokens) const {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.ignore_end = true;
    request.seed = 1;
    double before = processor_seconds();
    Answer answer = engine.generate(request);
    processor_ = processor_seconds() - before;
    return answer;
  }

  /// Turn N through the engine against the same tokens in a bare run over the same resident KV.
  void turns() {
    auto warm = engine(folder_.path() / "turns");
    std::unique_ptr<Executor> bare = executor();
    constexpr int kNew = 64, kRounds = 7;
    for (int history : {500, 2000, 3500}) {
      auto past = tokens(history, 100);
      ask(*warm, past, 1);
      warm->save_pending(10000);
      std::vector<int> count(model_->program().kv_groups.size(), kv_blocks(4096));
      auto store = bare->make_kv(count, bare->default_kv_type());
      run_bare(*bare, *store, past, 0);
      std::vector<double> engine_s, bare_s, engine_cpu, bare_cpu;
      for (int round = 0; round < kRounds; ++round) {
        auto fresh = tokens(kNew, 1000 + static_cast<uint64_t>(round));
        auto prompt = past;
        prompt.insert(prompt.end(), fresh.begin(), fresh.end());
        Answer answer = ask(*warm, prompt, 1);
        if (answer.receipt.usage.computed != kNew)
          fmt::print("  computed {} instead of {}\n", answer.receipt.usage.computed, kNew);
        engine_s.push_back(answer.receipt.timing.ttft);
        engine_cpu.push_back(processor_);
        warm->save_pending(1000);
        double before = processor_seconds();
        bare_s.push_back(run_bare(*bare, *store, fresh, history));
        bare_cpu.push_back(processor_seconds() - before);
      }
      double e = median(engine_s), b = median(bare_s);
      double ec = median(engine_cpu), bc = median(bare_cpu);
      fmt::print(
          "turn with {} new tokens on {} cached: engine {:.2f} ms, bare {:.2f} ms, "
          "{:+.2f} ms ({:+.1f} %) [{:.2f}, {:.2f}: {:+.1f} %]\n",
          kNew, history, e * 1e3, b * 1e3, (e - b) * 1e3, 100 * (e / b - 1), ec * 1e3, bc * 1e3,
          100 * (ec / bc - 1));
    }
  }

  /// The same long prompt in a second process, and another question after the same beginning.
  void second() {
    Path folder = folder_.path() / "second";
    auto prompt = tokens(a_.prompt, 7);
    Answer first;
    double first_cpu = 0;
    {
      auto one = engine(folder);
      first = ask(*one, prompt, 1);
      first_cpu = processor_;
      one->save_pending(600'000);
    }
    auto two = engine(folder);
    Answer again = ask(*two, prompt, 1);
    const Receipt &a = first.receipt, &b = again.receipt;
    fmt::print(
        "the same {} tokens in a second process: first token {:.1f} ms, then {:.1f} ms "
        "(restore {:.1f} ms, disk {}): {:.1f} x sooner [{:.1f}, {:.1f}: {:.1f} x]; answers {}\n",
        a_.prompt, a.timing.ttft * 1e3, b.timing.ttft * 1e3, b.timing.restore * 1e3,
        b.usage.cached_disk, a.timing.ttft / b.timing.ttft, first_cpu * 1e3, processor_ * 1e3,
        first_cpu / processor_, first.best().tokens == again.best().tokens ? "equal" : "DIFFER");
    for (const TierChoice& tier : b.tiers) {
      fmt::print("  {} held {}: {} (predicted {:.1f} ms to move, {:.1f} ms to compute)\n",
                 tier.tier, tier.tokens, tier.used ? "used" : "computed",
                 tier.restore_seconds * 1e3, tier.compute_seconds * 1e3);
    }
    // A question behind a pinned document.
    auto three = engine(folder);
    auto question = prompt;
    question.resize(static_cast<size_t>(a_.prompt) - 100);
    for (int32_t token : tokens(40, 9)) question.push_back(token);
    Answer other = ask(*three, question, 1);
    fmt::print(
        "another question of 40 tokens behind the same {}: {} computed, first token {:.1f} ms\n",
        a_.prompt - 100, other.receipt.usage.computed, other.receipt.timing.ttft * 1e3);
  }

  /// Pages from host memory to the device, against the measured link.
  void host() {
    auto run = executor();
    constexpr int kPages = 56, kRounds = 7;
    std::vector<int> count(model_->program().kv_groups.size(), kPages);
    auto store = run->make_kv(count, run->default_kv_type());
    size_t bytes = 0;
    for (size_t g = 0; g < count.size(); ++g) bytes += store->page_bytes(static_cast<int>(g));
    auto memory = store->host_memory(bytes * kPages);
    std::memset(memory->bytes().data(), 0, memory->bytes().size());
    std::vector<PageTransfer> moves;
    auto at = memory->bytes();
    for (int page = 0; page < kPages; ++page) {
      for (size_t g = 0; g < count.size(); ++g) {
        size_t size = store->page_bytes(static_cast<int>(g));
        moves.push_back({static_cast<int>(g), page, at.first(size)});
        at = at.subspan(size);
      }
    }
    std::vector<double> in, out;
    for (int round = 0; round < kRounds; ++round) {
      auto start = Clock::now();
      store->import_pages(moves);
      double device = store->finish_transfers();
      in.push_back(device > 0 ? device : since(start));
      start = Clock::now();
      store->export_pages(moves);
      store->finish_transfers();
      out.push_back(since(start));
    }
    double total = static_cast<double>(bytes) * kPages;
    double link = ceiling();
    fmt::print(
        "host memory: {} pages of {} KiB, in {:.1f} GB/s ({:.0f} % of {:.1f}), out {:.1f} GB/s\n",
        kPages, bytes >> 10, total / median(in) / 1e9, 100 * total / median(in) / link, link / 1e9,
        total / median(out) / 1e9);
  }

  /// Pages from files: warm in the page cache, and from the disk.
  void disk() {
    Path folder = folder_.path() / "second";
    auto prompt = tokens(a_.prompt, 7);
    if (!std::filesystem::exists(folder)) {
      auto one = engine(folder);
      ask(*one, prompt, 1);
      one->save_pending(600'000);
    }
    ::sync();
    double bytes = 0;
    std::vector<Path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.path().extension() != ".kv") continue;
      files.push_back(entry.path());
      bytes += static_cast<double>(entry.file_size());
    }
    // The best of a few: other work only adds.
    double warm = 1e9, cold = 1e9, sequential = 1e9;
    for (int round = 0; round < 4; ++round) {
      warm = std::min(warm, restore(folder, prompt));
      drop(files);
      cold = std::min(cold, restore(folder, prompt));
      sequential = std::min(sequential, read_one_file(bytes));
    }
    double link = ceiling();
    fmt::print(
        "restore of {} tokens, {:.0f} MB: from a warm page cache {:.2f} GB/s ({:.0f} % of {:.1f}), "
        "from the disk {:.2f} GB/s ({:.0f} % of {:.2f} sequential)\n",
        a_.prompt, bytes / 1e6, bytes / warm / 1e9, 100 * bytes / warm / link, link / 1e9,
        bytes / cold / 1e9, 100 * sequential / cold, bytes / sequential / 1e9);
  }

  /// Conversations with the cache on and off. Where the path is deterministic, every bit of every
  /// row of logits must agree; on a GPU's default path the share of equal answers is told, and how
  /// far the two highest logits lay apart where answers part.
  void same() {
    for (bool deterministic : {true, false}) {
      std::vector<test::LogitRow> rows[2];
      std::unique_ptr<Engine> engines[2];
      for (int cache : {0, 1}) {
        EngineOptions options;
        options.context = 4096;
        options.prefix_cache = cache;
        if (a_.cuda) options.host_bytes = 1ull << 30;
        engines[cache] = std::make_unique<Engine>(
            model_, std::make_unique<test::Recorder>(executor(deterministic), rows[cache]),
            options);
      }
      std::mt19937_64 rng(5);
      int equal = 0, bits = 0, answers = 0;
      int64_t reused = 0, prompts = 0;
      double widest = 0;
      for (int c = 0; c < 20; ++c) {
        std::vector<int32_t> history = tokens(40 + static_cast<int>(rng() % 200), rng());
        for (int turn = 0; turn < 10 && history.size() < 3500; ++turn) {
          if (turn > 0 && rng() % 5 == 0) history.resize(history.size() / 2);  // edit, undo
          for (int32_t token : tokens(10 + static_cast<int>(rng() % 150), rng()))
            history.push_back(token);
          Answer answer[2];
          for (int cache : {0, 1}) {
            rows[cache].clear();
            answer[cache] = ask(*engines[cache], history, 12);
          }
          const std::vector<int32_t>&a = answer[0].best().tokens, &b = answer[1].best().tokens;
          ++answers;
          equal += a == b;
          bits += rows[0] == rows[1];
          if (a != b) {
            auto at =
                static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
            widest = std::max<double>(widest, std::min(rows[0][at].gap, rows[1][at].gap));
          }
          reused += answer[1].receipt.usage.cached;
          prompts += answer[1].receipt.usage.prompt;
          history.insert(history.end(), b.begin(), b.end());
        }
      }
      fmt::print(
          "{} path: {} of {} answers equal, {} in every bit of every logit; widest gap of the two "
          "highest logits where answers part {:.2e}; {:.0f} % of prompt tokens reused\n",
          deterministic ? "deterministic" : "default", equal, answers, bits, widest,
          100.0 * static_cast<double>(reused) / static_cast<double>(prompts));
      if (!a_.cuda) break;  // the CPU's default path is the deterministic one
    }
  }

  /// Beam search: time of a step, and the same search by the book.
  void beams() {
    constexpr int kTokens = 48;
    EngineOptions options;
    options.context = 4096;
    Engine engine(model_, executor(true), options);
    auto prompt = tokens(512, 3);
    for (int width : {1, 2, 4, 8}) {
      Request request;
      request.prompt = prompt;
      request.max_tokens = kTokens;
      request.ignore_end = true;
      request.beams = width;
      Answer answer = engine.generate(request);
      fmt::print("{} beams behind 512 tokens: {:.2f} ms a step, best score {:.4f}\n", width,
                 answer.receipt.timing.tpot * 1e3,
                 width > 1 ? *answer.best().score : answer.best().mean_logprob());
    }
    Request request;
    request.prompt = tokens(96, 4);
    request.max_tokens = 12;
    request.beams = 4;
    Answer answer = engine.generate(request);
    auto bare = executor(true);
    const auto& ends = model_->tokenizer().stop_tokens();
    auto naive = test::NaiveBeams(*bare, {ends.begin(), ends.end()})
                     .search(request.prompt, request.beams, request.max_tokens);
    int equal = 0;
    double apart = 0;
    for (size_t i = 0; i < naive.size() && i < answer.completions.size(); ++i) {
      equal += naive[i].tokens == answer.completions[i].tokens;
      apart = std::max(apart, std::abs(naive[i].score - *answer.completions[i].score));
    }
    fmt::print(
        "beam search by the book, every text from its first token: {} of {} hypotheses "
        "equal, scores apart by at most {:.1e}\n",
        equal, naive.size(), apart);
  }

 private:
  /// Seconds of the bare executor for `tokens` at `position`, its last row's logits wanted.
  double run_bare(Executor& executor, KvStore& store, std::span<const int32_t> tokens,
                  int position) {
    std::vector<int32_t> pages(static_cast<size_t>(kv_blocks(4096)));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    SamplingRow row;
    SampledToken drawn;
    auto start = Clock::now();
    while (!tokens.empty()) {
      auto n = std::min(tokens.size(), static_cast<size_t>(executor.max_step_tokens()));
      SequenceSlice slice;
      slice.token_count = static_cast<int>(n);
      slice.position = position;
      for (size_t g = 0; g < model_->program().kv_groups.size(); ++g) slice.pages[g] = pages;
      bool last = n == tokens.size();
      int32_t wanted = static_cast<int32_t>(n) - 1;
      Batch batch{tokens.first(n), std::span(&slice, 1),
                  last ? std::span<const int32_t>(&wanted, 1) : std::span<const int32_t>()};
      if (last) {
        executor.run_sampled(batch, &store, std::span(&row, 1), std::span(&drawn, 1));
      } else {
        executor.run(batch, &store, {});
      }
      tokens = tokens.subspan(n);
      position += static_cast<int>(n);
    }
    return since(start);
  }

  double restore(const Path& folder, const std::vector<int32_t>& prompt) const {
    auto engine_now = engine(folder, true);
    Answer answer = ask(*engine_now, prompt, 1);
    if (answer.receipt.usage.cached_disk + 1 != static_cast<int>(prompt.size()))
      fmt::print("  restored only {}\n", answer.receipt.usage.cached_disk);
    return answer.receipt.timing.restore;
  }

  static void drop(const std::vector<Path>& files) {
    for (const Path& file : files) {
      int fd = ::open(file.c_str(), O_RDONLY);
      ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      ::close(fd);
    }
  }

  /// Seconds to read one file of so many bytes from the disk.
  double read_one_file(double bytes) const {
    Path path = folder_.path() / "sequential";
    std::vector<char> block(1 << 20, 'x');
    auto blocks = static_cast<int64_t>(bytes / static_cast<double>(block.size()) + 1);
    if (!std::filesystem::exists(path)) {
      int fd = ::open(path.c_str(), O_CREAT | O_WRONLY, 0600);
      for (int64_t i = 0; i < blocks; ++i) {
        block[0] = static_cast<char>(i);
        if (::write(fd, block.data(), block.size()) < 0)
          throw io_error("cannot write", path.string(), errno);
      }
      ::fsync(fd);
      ::close(fd);
    }
    drop({path});
    int fd = ::open(path.c_str(), O_RDONLY);
    auto start = Clock::now();
    while (::read(fd, block.data(), block.size()) > 0) {
    }
    double seconds = since(start);
    ::close(fd);
    return seconds * bytes / (static_cast<double>(blocks) * static_cast<double>(block.size()));
  }

  /// Bytes a second that the host link moves; on a CPU, that one thread copies.
  double ceiling() {
    if (ceiling_ > 0) return ceiling_;
    if (a_.cuda) return ceiling_ = measure_gpu_ceilings(0).host_link;
    std::vector<char> from(256 << 20, 1), to(256 << 20, 2);
    std::vector<double> seconds;
    for (int round = 0; round < 5; ++round) {
      auto start = Clock::now();
      std::memcpy(to.data(), from.data(), from.size());
      seconds.push_back(since(start));
      from[static_cast<size_t>(round)] = to[static_cast<size_t>(round) + 1];
    }
    return ceiling_ = static_cast<double>(from.size()) / median(seconds);
  }

  struct Folder {
    explicit Folder(const std::string& in) {
      std::string pattern =
          (in.empty() ? std::filesystem::temp_directory_path() : Path(in)) / "apud-bench-XXXXXX";
      if (!::mkdtemp(pattern.data())) throw io_error("cannot make a folder", pattern, errno);
      path_ = pattern;
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path_, ignored);
    }
    const Path& path() const { return path_; }
    Path path_;
  };

  const Arguments& a_;
  Folder folder_{a_.folder};
  std::shared_ptr<const Model> model_;
  int vocab_ = 0;
  double ceiling_ = 0;
  mutable double processor_ = 0;  // seconds of the last ask()
};

int cache_bench(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    auto value = [&]() -> std::string { return i + 1 < argc ? argv[++i] : ""; };
    if (word == "--cuda") {
      a.cuda = true;
    } else if (word == "--model") {
      a.model = value();
    } else if (word == "--shape") {
      a.shape = value();
    } else if (word == "--folder") {
      a.folder = value();
    } else if (word == "--threads") {
      a.threads = std::stoi(value());
    } else if (word == "--prompt") {
      a.prompt = std::stoi(value());
    } else {
      a.works.insert(word);
    }
  }
  Bench bench(a);
  fmt::print("{} on {}\n", a.model.empty() ? a.shape : a.model, bench.executor()->name());
  if (a.wants("turns")) bench.turns();
  if (a.wants("second")) bench.second();
  if (a.wants("host")) bench.host();
  if (a.wants("disk")) bench.disk();
  if (a.wants("same")) bench.same();
  if (a.wants("beams")) bench.beams();
  return 0;
}

}  // namespace
}  // namespace apud

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    return apud::cache_bench(argc, argv);
  } catch (const apud::Error& e) {
    fmt::print(stderr, "cache_bench: {}\n{}\n", e.what(), e.advice());
    return apud::exit_code(e.kind());
  }
}
