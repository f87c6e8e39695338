// `apud eval`: retrieval measured on the user's own questions, alone or against other settings.
#include <optional>

#include "app/evaluate.h"

namespace apud {
namespace {

/// What became of every question, so that the ones behind a figure can be looked at.
ordered_json each_question(std::span<const EvalQuestion> questions, std::span<const Judged> mine,
                           std::span<const Judged> theirs, bool answers) {
  auto outcome = [&](const Judged& judged) {
    ordered_json one = {{"ranks", judged.gold_ranks}, {"packed", judged.packed}};
    if (answers) one["cited"] = judged.cited;
    return one;
  };
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < questions.size(); ++i) {
    ordered_json& one = out.emplace_back(ordered_json{{"id", questions[i].id}});
    one.update(outcome(mine[i]));
    if (!theirs.empty()) one["versus"] = outcome(theirs[i]);
  }
  return out;
}

}  // namespace

int verb_eval(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  std::vector<EvalQuestion> questions =
      parse_eval_questions(read_file(o.eval.questions, 256u << 20));
  if (questions.empty()) throw Error(ErrorKind::kBadData, o.eval.questions + ": no questions");
  std::vector<std::string> names = runtime.collections();
  if (names.size() != 1)
    throw Error(ErrorKind::kUsage, "eval measures one collection", "name it with -k");
  std::optional<Runtime> other;
  if (!o.eval.versus.empty()) {
    Options theirs = o;
    theirs.settings.collection = names[0];
    apply_settings_file(theirs.settings, o.eval.versus);
    theirs.common.collections = {theirs.settings.collection};
    other.emplace(std::move(theirs), terminal);
    other->collections();  // kNoInput before the first run
  }
  runtime.want_engine({.save = false});
  if (other) other->want_engine({.save = false});
  std::vector<Judged> mine = judge_all(runtime, questions, names[0]), theirs;
  if (other) theirs = judge_all(*other, questions, other->collections()[0]);

  ordered_json out = {
      {"schema", kJsonSchema}, {"collection", names[0]}, {"questions", questions.size()}};
  Comparison comparison = compare(o.eval, mine, theirs, "--vs");
  out["scores"] = comparison.scores;
  if (other) out["worse"] = comparison.worse;
  out["each"] = each_question(questions, mine, theirs, o.eval.answers);
  terminal.out(o.common.json ? dump_json(out) + "\n" : comparison.table);
  terminal.flush();
  return comparison.worse ? 1 : 0;
}

}  // namespace apud
