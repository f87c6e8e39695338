#include "app/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/load_report.h"
#include "app/machine.h"
#include "app/signals.h"
#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "engine/disk_cache.h"
#include "kernels/backend.h"

namespace apud {

namespace {

constexpr uint64_t kHostTierBytes = 2ull << 30;
constexpr int kSparePages = 2;  // of a conversation on the GPU: pages in which it parts from others

InstalledModel best_installed_chat_model() {
  std::optional<InstalledModel> best;
  for (const InstalledModel& model : installed_models()) {
    if (model.kind == "chat" && (!best || model.bytes > best->bytes)) best = model;
  }
  if (!best) {
    throw Error(ErrorKind::kUnavailable, "no chat model is installed",
                "apud model pull default fetches the one that suits this machine; apud model list "
                "--all shows more");
  }
  return *best;
}

CpuIsa parse_isa(const std::string& name) {
  for (CpuIsa isa : {CpuIsa::kAuto, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kVnni, CpuIsa::kAmx}) {
    if (name == cpu_isa_name(isa)) return isa;
  }
  throw Error(ErrorKind::kUsage, "unknown CPU path '" + name + "'",
              "one of auto, avx2, avx512, vnni, amx");
}

/// An unknown name is the user's slip (66); a known model that is not here yet makes the work
/// impossible for now (69).
InstalledModel require_model(const std::string& name) {
  try {
    return find_model(name);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kNoInput && Catalogue::builtin().find(name))
      throw Error(ErrorKind::kUnavailable, e.what(), e.advice());
    throw;
  }
}

/// Absent: the executor's own.
std::optional<KvType> kv_type_of(const std::string& name) {
  if (name == "f16") return KvType::kF16;
  if (name == "bf16") return KvType::kBF16;
  if (name == "i8") return KvType::kI8;
  if (name == "f32") return KvType::kF32;
  return std::nullopt;
}

bool nvidia_card_present() { return std::filesystem::exists("/proc/driver/nvidia/version"); }

}  // namespace

struct Runtime::Scratch {
  Path folder;
  std::unique_ptr<Store> store;
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "apud-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw io_error("cannot make a folder", pattern, errno);
    folder = pattern;
    store = std::make_unique<Store>(folder / "scratch.db", Store::Mode::kReadWrite);
  }
  ~Scratch() {
    store.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
};

Runtime::Runtime(Options options, Terminal& terminal)
    : options(std::move(options)), terminal(terminal) {}
Runtime::~Runtime() = default;

Store& Runtime::store_or_scratch() {
  if (has_store()) return store();
  if (!scratch_) scratch_ = std::make_unique<Scratch>();
  return *scratch_->store;
}

const ChosenModel& Runtime::chat_model() {
  if (!chat_) {
    InstalledModel installed = options.settings.model.empty()
                                   ? best_installed_chat_model()
                                   : require_model(options.settings.model);
    ModelOptions load;
    load.context = options.settings.ctx;
    chat_ = ChosenModel{installed, load_model(installed.path, load)};
  }
  return *chat_;
}

int Runtime::context() {
  const Model& model = *chat_model().model;
  int own = model.config().context;
  int wanted = options.settings.ctx;
  if (wanted > own) {
    throw Error(ErrorKind::kUsage, fmt::format("--ctx {}: {} was made for at most {} tokens",
                                               wanted, chat_model().installed.id, own));
  }
  if (on_gpu()) return gpu_plan().context;
  return wanted > 0 ? wanted : std::min(own, kDefaultContext);
}

bool Runtime::on_gpu() {
  if (on_gpu_) return *on_gpu_;
  const std::string& device = options.settings.device;
  on_gpu_ = false;
  if (device == "cpu") return false;
  std::string reason = cuda_unavailable_reason();
  if (reason.empty()) {
    on_gpu_ = true;
  } else if (device == "cuda") {
    throw Error(ErrorKind::kUnavailable, "--device cuda: " + reason,
                "apud doctor tells more; --device cpu runs without it");
  } else if (nvidia_card_present()) {
    terminal.warn("an NVIDIA card is here but not used: " + reason +
                  " (apud doctor tells more; --device cpu silences this)");
  }
  return *on_gpu_;
}

/// Contexts of KV: a search's beams share their prompt, each has an answer of its own and the page
/// in which it parts.
int Runtime::conversations(const EngineWish& wish) const {
  const Settings& s = options.settings;
  int answer = options.generation.max_tokens.value_or(s.answer) + 2 * kKvPageTokens;
  int context = s.ctx > 0 ? s.ctx : kDefaultContext;
  int tails = wish.sequences * (wish.beams - 1) * answer;
  return wish.sequences + (tails + context - 1) / context;
}

LoadSubject Runtime::gpu_subject(int conversations) {
  CudaMemory memory = cuda_memory(0);
  LoadSubject subject{chat_model().installed.id, memory.device, {}};
  LoadRequest& request = subject.request;
  request.device_bytes = memory.free_bytes;
  request.read_bytes_per_second = memory.read_bytes_per_second;
  request.context = options.settings.ctx;
  // A second conversation stays in memory where there is room for it.
  request.sequences = std::max(2, conversations);
  request.spare_tokens = kSparePages * kKvPageTokens;
  request.kv_type = kv_type_of(options.settings.kv).value_or(KvType::kF16);
  return subject;
}

bool Runtime::more_are_free(const EngineWish& few, const EngineWish& more) {
  if (!on_gpu()) return false;
  const Model& model = *chat_model().model;
  return more_sequences_are_free(model.program(), model.weights(),
                                 gpu_subject(conversations(few)).request, conversations(more));
}

const LoadPlan& Runtime::gpu_plan() {
  const int wanted = conversations(wish_);
  if (gpu_plan_ && planned_for_ == wanted) return *gpu_plan_;
  LoadSubject subject = gpu_subject(wanted);
  LoadRequest& request = subject.request;
  const Model& model = *chat_model().model;
  LoadPlan plan = plan_load(model.program(), model.weights(), request);
  if (!plan.fits && wanted == 1) {
    request.sequences = 1;
    plan = plan_load(model.program(), model.weights(), request);
  }
  if (!plan.fits) throw load_refusal(subject, plan, Catalogue::builtin().entries());
  plan.context = std::min(plan.context, model.config().context);
  terminal.note(load_plan_line(subject, plan));
  planned_for_ = wanted;
  planned_conversations_ = request.sequences;
  gpu_plan_ = plan;
  return *gpu_plan_;
}

std::unique_ptr<Executor> Runtime::make_executor(const Model& model, int max_step_tokens) {
  // The 16-bit copy of its weights leaves the planned KV its room.
  const int64_t reserve =
      gpu_plan_ ? gpu_plan_->kv + gpu_plan_->workspace + gpu_plan_->head_room : 0;
  return make_executor(model.program(), model.weights(), max_step_tokens, reserve);
}

std::unique_ptr<Executor> Runtime::make_executor(const Program& program, const Weights& weights,
                                                 int max_step_tokens, int64_t reserve_bytes) {
  const Settings& s = options.settings;
  if (on_gpu()) {
    CudaOptions cuda;
    if (max_step_tokens > 0) cuda.max_step_tokens = max_step_tokens;
    cuda.deterministic = options.generation.deterministic;
    cuda.reserve_bytes = reserve_bytes;
    return make_cuda_executor(program, weights, cuda);
  }
  CpuOptions cpu;
  cpu.isa = parse_isa(s.cpu_isa);
  cpu.threads = s.threads;
  if (max_step_tokens > 0) cpu.max_step_tokens = max_step_tokens;
  return make_cpu_executor(program, weights, cpu);
}

std::unique_ptr<Engine> Runtime::build_engine() {
  const ChosenModel& chosen = chat_model();
  EngineOptions engine;
  engine.context = context();
  engine.max_batch_sequences = std::max(wish_.sequences * wish_.beams, wish_.most_beams);
  engine.kv_type = kv_type_of(options.settings.kv);
  std::unique_ptr<Executor> executor = make_executor(*chosen.model, 0);
  const KvType kv_type = engine.kv_type.value_or(executor->default_kv_type());
  if (conversations(wish_) > 2) {
    engine.kv_bytes = kv_bytes_per_token(chosen.model->program(), kv_type) *
                      static_cast<uint64_t>(engine.context) *
                      static_cast<uint64_t>(conversations(wish_));
  }
  if (gpu_plan_) {
    // As planned.
    engine.kv_bytes = kv_bytes_per_token(chosen.model->program(), kv_type) *
                      static_cast<uint64_t>(engine.context + kSparePages * kKvPageTokens) *
                      static_cast<uint64_t>(planned_conversations_);
  }
  // Pages that leave the device are kept in pinned memory, up to an eighth of the machine's.
  if (on_gpu())
    engine.host_bytes = std::min<uint64_t>(kHostTierBytes, machine_facts().memory_bytes / 8);
  if (options.settings.cache_gb > 0) {
    engine.disk.folder = default_kv_cache_dir();
    engine.disk.limit_bytes = static_cast<uint64_t>(options.settings.cache_gb * 1e9);
    engine.disk.write = wish_.save;
  }
  return std::make_unique<Engine>(chosen.model, std::move(executor), engine);
}

void Runtime::want_engine(const EngineWish& wish) {
  APUD_CHECK(!engine_ && !engine_future_.valid(), "the engine is not made yet");
  wish_ = wish;
}

void Runtime::preload_engine() {
  if (engine_ || engine_future_.valid()) return;
  chat_model();  // errors of the user come now, on this thread
  context();
  engine_future_ = std::async(std::launch::async, [this] { return build_engine(); });
}

Engine& Runtime::engine() {
  if (!engine_) {
    preload_engine();
    engine_ = engine_future_.get();
  }
  return *engine_;
}

bool Runtime::has_store() const { return Store::exists(); }

Store& Runtime::store() {
  if (!store_) {
    if (!Store::exists())
      throw Error(ErrorKind::kNoInput, "no documents yet", "apud ingest FOLDER takes some in");
    store_ = std::make_unique<Store>(Store::default_path(), Store::Mode::kReadOnly);
  }
  return *store_;
}

Store& Runtime::writer() {
  if (!writer_) {
    make_private_dir(data_dir());
    writer_ = std::make_unique<Store>(Store::default_path(), Store::Mode::kReadWrite);
  }
  return *writer_;
}

std::unique_ptr<EngineEmbedder> Runtime::build_embedder(const std::string& id) {
  InstalledModel installed = require_model(id);
  std::shared_ptr<const Model> model = load_model(installed.path);
  auto make = [&](const Program& program) { return make_executor(program, model->weights(), 0); };
  return std::make_unique<EngineEmbedder>(installed.id,
                                          Embedding(model, make_embedding_executor(*model, make)));
}

void Runtime::preload_embedder(const std::vector<std::string>& collections) {
  if (collections.empty()) return;
  const std::string id = store().collection(collections.front()).embedder.name;
  if (embedders_.count(id) || embedder_futures_.count(id)) return;
  on_gpu();  // asked for once, on this thread
  embedder_futures_[id] = std::async(std::launch::async, [=, this] { return build_embedder(id); });
}

EngineEmbedder& Runtime::embedder(const std::string& id) {
  auto& slot = embedders_[id];
  if (!slot) {
    auto loading = embedder_futures_.extract(id);
    slot = loading ? loading.mapped().get() : build_embedder(id);
  }
  return *slot;
}

EngineEmbedder& Runtime::embedder_of(const CollectionInfo& collection) {
  EngineEmbedder& found = embedder(collection.embedder.name);
  if (found.fingerprint() != collection.embedder.fingerprint) {
    throw Error(ErrorKind::kUsage,
                fmt::format("collection {} was made by another version of the embedder {} "
                            "(fingerprint {}, installed {})",
                            collection.name, collection.embedder.name,
                            collection.embedder.fingerprint.substr(0, 12),
                            found.fingerprint().substr(0, 12)),
                "ingest its folders again into a new collection (apud ingest -k NEW FOLDER)");
  }
  return found;
}

const std::vector<std::string>& Runtime::collections() {
  if (collections_) return *collections_;
  collections_.emplace();
  if (options.common.no_docs) return *collections_;
  if (!options.common.collections.empty()) {
    for (const std::string& name : options.common.collections)
      store().collection(name);  // throws kNoInput
    collections_ = options.common.collections;
    return *collections_;
  }
  const std::string& name = options.settings.collection;
  if (!has_store()) return *collections_;
  std::optional<CollectionInfo> info = store().find_collection(name);
  if (!info || info->documents == 0) return *collections_;
  collections_->push_back(name);
  terminal.dim(fmt::format("documents: {}, {} file{}", name, info->documents,
                           info->documents == 1 ? "" : "s"));
  return *collections_;
}

Retriever& Runtime::retriever(const std::vector<std::string>& collections) {
  EngineEmbedder* with =
      collections.empty() ? nullptr : &embedder_of(store().collection(collections.front()));
  auto& slot = retrievers_[with];
  if (!slot) slot = std::make_unique<Retriever>(store(), with);
  return *slot;
}

Packer& Runtime::packer(const std::vector<std::string>& collections) {
  EngineEmbedder* with =
      collections.empty() ? nullptr : &embedder_of(store().collection(collections.front()));
  auto& slot = packers_[with];
  if (!slot) slot = std::make_unique<Packer>(store_or_scratch(), with);
  return *slot;
}

const TokenCounter& Runtime::counter() {
  if (!counter_) counter_ = std::make_unique<ModelTokenCounter>(chat_model().model);
  return *counter_;
}

std::string Runtime::speed_key() {
  const Settings& s = options.settings;
  return fmt::format("{}/{}/{}/{}", chat_model().model->fingerprint().substr(0, 16), s.device,
                     s.cpu_isa, s.threads);
}

double Runtime::measure_prefill_rate() {
  // Two different stretches of text, so that no page of one serves the other; the first warms up
  // what was mapped but not yet read.
  constexpr int kWarm = 64, kTimed = 128;
  const Tokenizer& tokenizer = chat_model().model->tokenizer();
  double rate = 0;
  for (int tokens : {kWarm, kTimed}) {
    std::string text;
    for (int i = 0; i < tokens; ++i) text += fmt::format("{} apples ", i * 7 + tokens);
    Request request;
    request.prompt = tokenizer.encode(text);
    request.prompt.resize(std::min<size_t>(request.prompt.size(), tokens));
    request.max_tokens = 1;
    request.save = false;
    request.cancel = &cancel_flag();
    rate = engine().generate(std::move(request)).receipt.timing.prefill_tokens_per_second;
  }
  return rate;
}

int Runtime::evidence_tokens() {
  if (options.settings.evidence > 0) return options.settings.evidence;
  return reading_speed().evidence;
}

const ReadingSpeed& Runtime::reading_speed() {
  if (!reading_) reading_ = load_reading_speed(speed_key());
  if (!reading_) {
    terminal.progress("measuring the reading speed (once)", true);
    double rate = measure_prefill_rate();
    terminal.progress("", true);
    reading_ = ReadingSpeed{evidence_step(rate), rate, 0};
    if (!cancel_flag().raised()) save_reading_speed(speed_key(), *reading_);
  }
  return *reading_;
}

std::string Runtime::evidence_note() const {
  if (!reading_ || reading_->evidence >= kMostEvidence) return {};
  return fmt::format(": this machine reads {:.0f} tokens/s", reading_->rate);
}

void Runtime::note_prefill_rate(const Receipt& receipt) {
  // A handful of tokens says nothing about the speed of a prompt.
  if (!reading_ || receipt.usage.computed < 64) return;
  ReadingSpeed before = *reading_;
  if (update(*reading_, receipt.timing.prefill_tokens_per_second)) {
    terminal.warn(
        fmt::format("passages now take up to {} tokens of a prompt, not {}: this machine "
                    "reads {:.0f} tokens/s, measured before {:.0f}",
                    reading_->evidence, before.evidence, reading_->rate, before.rate));
  }
  if (before.contradicted != reading_->contradicted || before.evidence != reading_->evidence)
    save_reading_speed(speed_key(), *reading_);
}

}  // namespace apud
