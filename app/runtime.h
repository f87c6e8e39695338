// What the verbs share: settings, terminal, and the heavy things (model, engine, embedder, store),
// each made on first use and kept for the process.
//
// Ownership: owns all it hands out. Threads: one thread; engine and embedder may be prepared in the
// background (preload_engine, preload_embedder) while documents are searched.
#pragma once

#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/engine_embedder.h"
#include "app/evidence_budget.h"
#include "app/load_report.h"
#include "app/options.h"
#include "app/terminal.h"
#include "engine/embedding.h"
#include "engine/engine.h"
#include "kernels/load_plan.h"
#include "models/catalogue.h"
#include "models/model.h"
#include "rag/embedder.h"
#include "rag/packer.h"
#include "rag/retriever.h"
#include "rag/store.h"

namespace apud {

/// Chat or embedding model as the user named it.
struct ChosenModel {
  InstalledModel installed;
  std::shared_ptr<const Model> model;
};

class ModelTokenCounter : public TokenCounter {
 public:
  explicit ModelTokenCounter(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
  int count(std::string_view text) const override {
    return static_cast<int>(model_->tokenizer().encode(text).size());
  }

 private:
  std::shared_ptr<const Model> model_;
};

/// Tokens of the context window where the user names none and no GPU decides it.
inline constexpr int kDefaultContext = 4096;

class Runtime {
 public:
  Runtime(Options options, Terminal& terminal);
  ~Runtime();

  Options options;
  Terminal& terminal;

  /// The chat model (mapped, not yet run). Throws kUnavailable when none is installed.
  const ChosenModel& chat_model();
  /// How the engine is made, whoever needs it first.
  struct EngineWish {
    int sequences = 1;   // answers written at once
    int beams = 1;       // of each, KV for as many
    int most_beams = 1;  // of a single answer, where others leave it the KV
    bool save = true;    // its cache may reach the disk
  };
  /// Whether an engine for `more` costs the card no context that one for `few` would have; false
  /// without a card.
  bool more_are_free(const EngineWish& few, const EngineWish& more);
  /// Before anything that makes it.
  void want_engine(const EngineWish& wish);
  /// Starts making the engine on another thread.
  void preload_engine();
  Engine& engine();
  /// Context window of this run, from --ctx, the model and the device. On a GPU what fits is worked
  /// out (and refused with what would) before anything is loaded.
  int context();
  /// True where --device and this machine lead to a GPU; says once why not where a card is there.
  bool on_gpu();
  /// Executor as --device and --cpu-isa say. `purpose` is used in messages.
  std::unique_ptr<Executor> make_executor(const Model& model, int max_step_tokens);
  /// `reserve_bytes`: as CudaOptions.
  std::unique_ptr<Executor> make_executor(const Program& program, const Weights& weights,
                                          int max_step_tokens, int64_t reserve_bytes = 0);

  bool has_store() const;
  /// For reading; throws kNoInput when nothing was ever ingested.
  Store& store();
  /// For writing: created where absent. A connection of its own, so that readers keep theirs.
  Store& writer();
  /// Starts loading the embedder of these collections on another thread; its errors come from
  /// embedder().
  void preload_embedder(const std::vector<std::string>& collections);
  /// The embedder of this name, or the one that made these collections.
  EngineEmbedder& embedder(const std::string& id);
  EngineEmbedder& embedder_of(const CollectionInfo& collection);
  /// Collections in use: -k, else the default one where it exists (said once on a terminal's
  /// stderr), else none. Unknown names throw kNoInput.
  const std::vector<std::string>& collections();
  /// Retriever and packer with the embedder of these collections (none: without one).
  Retriever& retriever(const std::vector<std::string>& collections);
  Packer& packer(const std::vector<std::string>& collections);
  const TokenCounter& counter();

  /// Tokens of passages that a prompt may carry: the user's number, else what this machine reads in
  /// time (app/evidence_budget.h). The first call for a model measures its speed: a second or two.
  int evidence_tokens();
  /// Prompt tokens a second, measured as for evidence_tokens().
  double reading_rate() { return reading_speed().rate; }
  /// Why evidence_tokens() is below the default, to follow the number; empty where it is not.
  std::string evidence_note() const;
  /// An answer's speed, so that a decision that no longer holds is taken anew (and said).
  void note_prefill_rate(const Receipt& receipt);

 private:
  std::unique_ptr<Engine> build_engine();
  std::unique_ptr<EngineEmbedder> build_embedder(const std::string& id);
  /// The store, or an empty one in a temporary folder: packing a -f text needs its word rules only.
  Store& store_or_scratch();
  std::string speed_key();
  double measure_prefill_rate();
  const ReadingSpeed& reading_speed();

  LoadSubject gpu_subject(int conversations);
  const LoadPlan& gpu_plan();
  int conversations(const EngineWish& wish) const;

  std::optional<ChosenModel> chat_;
  EngineWish wish_;
  std::optional<bool> on_gpu_;
  std::optional<LoadPlan> gpu_plan_;
  int planned_for_ = 0, planned_conversations_ = 0;
  std::unique_ptr<Engine> engine_;
  std::future<std::unique_ptr<Engine>> engine_future_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Store> writer_;
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
  std::map<std::string, std::future<std::unique_ptr<EngineEmbedder>>> embedder_futures_;
  std::map<std::string, std::unique_ptr<EngineEmbedder>> embedders_;
  std::optional<std::vector<std::string>> collections_;
  std::map<EngineEmbedder*, std::unique_ptr<Retriever>> retrievers_;
  std::map<EngineEmbedder*, std::unique_ptr<Packer>> packers_;
  std::unique_ptr<ModelTokenCounter> counter_;
  std::optional<ReadingSpeed> reading_;  // of the chat model, once asked for
};

/// Verbs: each returns the exit code.
int verb_ask(Runtime&);
int verb_chat(Runtime&);
int verb_batch(Runtime&);
int verb_search(Runtime&);
int verb_ingest(Runtime&);
int verb_eval(Runtime&);
int verb_coll(Runtime&);
/// `coll selftest NAME`.
int self_test_collection(Runtime&, const std::string& name);
/// `coll reindex NAME`.
int reindex_collection(Runtime&, const std::string& name);
int verb_doc(Runtime&);
int verb_session(Runtime&);
int verb_cache(Runtime&);
int verb_pin(Runtime&);
/// Pins documents by their paths and computes their KV, as `apud pin` does.
void pin_paths(Runtime&, const std::string& collection, const std::vector<std::string>& paths);
int verb_model(Runtime&);
int verb_config(Runtime&);
int verb_explain(Runtime&);
int verb_doctor(Runtime&);
int verb_bench(Runtime&);

}  // namespace apud
