// Verbs that list, show and remove: coll, doc, session, cache, config, explain.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <optional>

#include "app/chat_session.h"
#include "app/clock.h"
#include "app/find_documents.h"
#include "app/json_text.h"
#include "app/memory.h"
#include "app/progress.h"
#include "app/rerank.h"
#include "app/runtime.h"
#include "base/utf8.h"
#include "engine/disk_cache.h"
#include "engine/session_store.h"
#include "rag/index.h"

namespace apud {

namespace {

std::string date(int64_t seconds) {
  std::time_t time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  ::localtime_r(&time, &parts);
  char buffer[32];
  std::strftime(buffer, sizeof buffer, "%Y-%m-%d %H:%M", &parts);
  return buffer;
}

const std::string& need_name(const ManageOptions& m, size_t index, const char* what) {
  if (m.names.size() <= index || m.names[index].empty()) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} missing", m.action, what));
  }
  return m.names[index];
}

void say_sessions(Terminal& terminal, const std::vector<std::string>& sessions) {
  if (!sessions.empty())
    terminal.warn(
        fmt::format("sessions that quote it keep their text: {}", fmt::join(sessions, ", ")));
}

}  // namespace

int verb_coll(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  bool json = runtime.options.common.json;
  if (m.action == "list") {
    std::vector<CollectionInfo> all;
    if (runtime.has_store()) all = runtime.store().collections();
    ordered_json out = {{"schema", kJsonSchema}, {"collections", ordered_json::array()}};
    for (const CollectionInfo& c : all) {
      if (json) {
        out["collections"].push_back({{"name", c.name},
                                      {"documents", c.documents},
                                      {"chunks", c.chunks},
                                      {"tokens", c.tokens},
                                      {"embedder", c.embedder.name},
                                      {"changed", c.changed}});
      } else {
        terminal.out_text(fmt::format("{:<20} {:>7} files {:>9} chunks  {}  {}\n", c.name,
                                      with_commas(c.documents), with_commas(c.chunks),
                                      c.embedder.name, date(c.changed)));
      }
    }
    if (json) terminal.out(dump_json(out) + "\n");
    terminal.flush();
    if (all.empty() && !json) terminal.note("no collections yet: apud ingest FOLDER");
    return all.empty() ? 1 : 0;
  }
  const std::string& name = need_name(m, 0, "collection name");
  if (m.action == "info") {
    CollectionInfo c = runtime.store().collection(name);
    std::vector<RerankRecord> tests = load_rerank_tests(c.uuid);
    ordered_json rerank = ordered_json::array();
    std::string reranks;
    for (const RerankRecord& test : tests) {
      rerank.push_back(rerank_json(test, c));
      reranks += (reranks.empty() ? "" : "\n            ") + rerank_line(test, c);
    }
    if (tests.empty()) reranks = fmt::format("not tested (apud coll selftest {})", c.name);
    if (json) {
      terminal.out(dump_json({{"schema", kJsonSchema},
                              {"name", c.name},
                              {"uuid", c.uuid},
                              {"documents", c.documents},
                              {"vanished", c.vanished},
                              {"chunks", c.chunks},
                              {"tokens", c.tokens},
                              {"text_bytes", c.text_bytes},
                              {"embedder",
                               {{"name", c.embedder.name},
                                {"dimension", c.embedder.dimension},
                                {"fingerprint", c.embedder.fingerprint}}},
                              {"chunker", c.chunker},
                              {"roots", c.roots},
                              {"generation", c.generation},
                              {"calibration",
                               {{"dense_weight", c.calibration.dense_weight},
                                {"abstain_line", c.calibration.abstain_line},
                                {"abstain_line_cjk", c.calibration.abstain_line_cjk},
                                {"queries", c.calibration.queries}}},
                              {"rerank", rerank}}) +
                   "\n");
    } else {
      terminal.out_text(fmt::format(
          "name        {}\nfiles       {} ({} vanished)\nchunks      {}\ntokens      {}\ntext      "
          "  {}\nembedder    {} ({} dimensions)\n"
          "chunker     {}\nfusion      dense {:.2f}, keywords {:.2f}\nabstains    below relevance "
          "{:.3f}, Chinese questions {:.3f} ({} asked)\nreranks     {}\nroots       {}\nchanged    "
          " {}\n",
          c.name, with_commas(c.documents), with_commas(c.vanished), with_commas(c.chunks),
          with_commas(c.tokens), human_bytes(static_cast<uint64_t>(c.text_bytes)), c.embedder.name,
          c.embedder.dimension, c.chunker, c.calibration.dense_weight,
          1 - c.calibration.dense_weight, c.calibration.abstain_line,
          c.calibration.abstain_line_cjk, c.calibration.queries, reranks, fmt::join(c.roots, ", "),
          date(c.changed)));
    }
    terminal.flush();
    return 0;
  }
  if (m.action == "selftest") return self_test_collection(runtime, name);
  if (m.action == "reindex") return reindex_collection(runtime, name);
  runtime.store().collection(name);  // kNoInput before anything is locked
  Store& store = runtime.writer();
  WriteLock lock(store);
  if (m.action == "rename") {
    check_not_reserved(name);
    check_not_reserved(need_name(m, 1, "new name"));
    store.rename_collection(lock, name, m.names[1]);
    return 0;
  }
  // rm: pages first, so that an interruption leaves text that can be removed again, never pages
  // whose text is gone.
  CollectionInfo c = store.collection(name);
  std::vector<std::string> tags;
  for (const DocumentInfo& document : store.documents(c.id))
    tags.push_back(fmt::format("doc:{}", document.id));
  remove_kv_pages_tagged(default_kv_cache_dir(), tags);
  say_sessions(terminal, store.remove_collection(lock, name));
  terminal.note(fmt::format("removed collection {} ({} files)", name, c.documents));
  return 0;
}

int verb_doc(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  const CommonOptions& common = runtime.options.common;
  Terminal& terminal = runtime.terminal;
  std::string name =
      common.collections.empty() ? runtime.options.settings.collection : common.collections.front();
  // One connection: each reads the names of all keyword tables, thousands in a large store.
  const bool removes = m.action == "rm" && runtime.has_store();
  Store& there = removes ? runtime.writer() : runtime.store();
  CollectionInfo collection = there.collection(name);
  if (m.action == "list") {
    ordered_json out = {{"schema", kJsonSchema}, {"documents", ordered_json::array()}};
    std::vector<DocumentInfo> listed;
    if (m.names.empty()) listed = runtime.store().documents(collection.id);
    for (const std::string& wanted : m.names) {
      for (DocumentInfo& d : match_documents(runtime.store(), collection, wanted))
        listed.push_back(std::move(d));
    }
    for (const DocumentInfo& d : listed) {
      if (common.json) {
        out["documents"].push_back({{"path", d.path},
                                    {"title", d.title},
                                    {"loader", d.loader},
                                    {"status", load_status_name(d.status)},
                                    {"reason", d.reason},
                                    {"chunks", d.chunks},
                                    {"tokens", d.tokens},
                                    {"size", d.size},
                                    {"vanished", d.vanished}});
      } else {
        terminal.out_text(fmt::format("{:>6} chunks  {}{}\n", with_commas(d.chunks),
                                      printable(d.path, true), d.vanished ? "  (vanished)" : ""));
      }
    }
    if (common.json) terminal.out(dump_json(out) + "\n");
    terminal.flush();
    return 0;
  }
  const std::string& wanted = need_name(m, 0, "document");
  if (m.action == "show") {
    std::vector<DocumentInfo> found = match_documents(runtime.store(), collection, wanted);
    for (const DocumentInfo& d : found) {
      if (found.size() > 1) terminal.out_text("== " + printable(d.path, true) + "\n");
      terminal.out_text(runtime.store().text(d.id).text + "\n");
    }
    terminal.flush();
    return 0;
  }
  Store& store = runtime.writer();
  WriteLock lock(store);
  std::vector<int64_t> ids;
  for (const std::string& one : m.names) {
    for (const DocumentInfo& d : match_documents(store, collection, one)) ids.push_back(d.id);
  }
  std::vector<std::string> tags;
  tags.reserve(ids.size());
  for (int64_t id : ids) tags.push_back(fmt::format("doc:{}", id));
  remove_kv_pages_tagged(default_kv_cache_dir(), tags);
  say_sessions(terminal, store.remove_documents(lock, ids));
  store.purge(lock);
  remake_vector_index(store, store.collection(name));
  terminal.note(fmt::format("removed {} document{}", ids.size(), ids.size() == 1 ? "" : "s"));
  return 0;
}

int verb_session(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  bool json = runtime.options.common.json;
  SessionStore sessions(SessionStore::default_folder());
  if (m.action == "list") {
    std::vector<std::string> damaged;
    std::vector<SessionInfo> all = sessions.list(&damaged);
    ordered_json out = {{"schema", kJsonSchema}, {"sessions", ordered_json::array()}};
    for (const SessionInfo& s : all) {
      if (json) {
        out["sessions"].push_back({{"id", s.id},
                                   {"name", s.name},
                                   {"model", s.model},
                                   {"collections", s.collections},
                                   {"turns", s.turns},
                                   {"updated", s.updated}});
      } else {
        terminal.out_text(fmt::format("{}  {:>3} messages  {}  {}\n", date(s.updated), s.turns,
                                      s.id, printable(s.name, true)));
      }
    }
    if (json) terminal.out(dump_json(out) + "\n");
    terminal.flush();
    if (all.empty() && !json) terminal.note("no saved chats yet: apud chat");
    for (const std::string& file : damaged)
      terminal.warn("damaged session file, left alone: " + file);
    return 0;
  }
  const std::string& name = need_name(m, 0, "session");
  if (m.action == "show") {
    Session session = sessions.load(name);
    terminal.out_text(json ? export_session_json(session) : session_markdown(session, true));
    terminal.flush();
  } else if (m.action == "export") {
    Session session = sessions.load(name);
    terminal.out_text(m.format == "json" ? export_session_json(session)
                                         : session_markdown(session));
    terminal.flush();
  } else if (m.action == "rename") {
    sessions.rename(name, need_name(m, 1, "new name"));
  } else if (m.action == "fork") {
    Session copy = sessions.fork(name, m.names.size() > 1 ? m.names[1] : "", 0, unix_now());
    terminal.note("forked as " + copy.info.name + " (" + copy.info.id + ")");
  } else {
    Session session = sessions.load(name);
    // Not one that is open elsewhere; remove() takes the lock again.
    std::optional<SessionStore::Lock> lock(sessions.open(session.info));
    remove_kv_pages_tagged(default_kv_cache_dir(), "session:" + session.info.id);
    if (runtime.has_store()) {
      Store& store = runtime.writer();
      WriteLock write(store);
      store.remove_session_answers(write, session.info.name);
      store.remove_session_answers(write, session.info.id);
      store.purge(write);
    }
    lock.reset();
    sessions.remove(session.info.id);
    forget_session(runtime, session.info.id);
    terminal.note("removed session " + session.info.name);
  }
  return 0;
}

namespace {

int show_cache(Runtime& runtime, const Path& folder, const std::vector<std::string>& keys) {
  Terminal& terminal = runtime.terminal;
  bool json = runtime.options.common.json;
  ordered_json out = {{"schema", kJsonSchema}, {"pages", ordered_json::array()}};
  for (const std::string& key : keys) {
    for (const CachePageInfo& page : show_kv_cache(folder, key)) {
      if (json) {
        out["pages"].push_back({{"key", key},
                                {"file", page.file},
                                {"tokens", page.tokens},
                                {"bytes", page.bytes},
                                {"last_used", page.last_used},
                                {"tags", page.tags}});
      } else {
        terminal.out_text(fmt::format("{}  {:>3} tokens  {:>8}  {}  {}\n", page.file, page.tokens,
                                      human_bytes(page.bytes), date(page.last_used),
                                      fmt::join(page.tags, " ")));
      }
    }
  }
  if (json) terminal.out(dump_json(out) + "\n");
  terminal.flush();
  return 0;
}

}  // namespace

int verb_cache(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  bool json = runtime.options.common.json;
  Path folder = default_kv_cache_dir();
  if (m.action == "list") {
    ordered_json out = {{"schema", kJsonSchema}, {"caches", ordered_json::array()}};
    uint64_t total = 0;
    for (const CacheFolderInfo& info : list_kv_cache(folder)) {
      total += info.bytes;
      if (json) {
        out["caches"].push_back({{"key", info.key},
                                 {"model", info.model},
                                 {"layout", info.layout},
                                 {"executor", info.executor},
                                 {"pages", info.pages},
                                 {"bytes", info.bytes},
                                 {"last_used", info.last_used}});
      } else {
        terminal.out_text(fmt::format(
            "{}  {:>7} pages  {:>8}  {}  {}  {}\n", info.key.substr(0, 12), with_commas(info.pages),
            human_bytes(info.bytes), info.executor, info.model, date(info.last_used)));
      }
    }
    if (json) {
      out["bytes"] = total;
      terminal.out(dump_json(out) + "\n");
    }
    terminal.flush();
    if (!json)
      terminal.note(fmt::format("{} of at most {} GB", human_bytes(total),
                                runtime.options.settings.cache_gb));
    return 0;
  }
  if (m.action == "show" || m.action == "clear") {
    std::string begin = m.names.empty() ? "" : m.names[0];
    std::vector<std::string> keys;
    for (const CacheFolderInfo& info : list_kv_cache(folder)) {
      if (info.key.starts_with(begin)) keys.push_back(info.key);
    }
    if (keys.empty() && !begin.empty())
      throw Error(ErrorKind::kNoInput, "no cache " + begin, "apud cache list names them");
    if (m.action == "show") return show_cache(runtime, folder, keys);
    uint64_t freed = 0;
    for (const std::string& key : keys) freed += clear_kv_cache(folder, key);
    terminal.note("freed " + human_bytes(freed));
    return 0;
  }
  // limit N: trimmed now and kept as a setting.
  const std::string& text = need_name(m, 0, "gigabytes");
  Settings probe;
  set_setting(probe, "cache_gb", text, false);
  save_setting("cache_gb", text);
  terminal.note(fmt::format(
      "limit {} GB; freed {}", text,
      human_bytes(limit_kv_cache(folder, static_cast<uint64_t>(probe.cache_gb * 1e9)))));
  return 0;
}

int verb_config(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  if (m.action == "path") {
    terminal.out_text(settings_path().string() + "\n");
  } else if (m.action == "list") {
    Settings settings = load_settings();
    ordered_json out = {{"schema", kJsonSchema}};
    for (const SettingKey& key : setting_keys()) {
      if (runtime.options.common.json) {
        out["settings"][key.name] = setting_text(settings, key.name);
      } else {
        terminal.out_text(fmt::format("{:<12} {:<16} {}\n", key.name,
                                      setting_text(settings, key.name), key.help));
      }
    }
    if (runtime.options.common.json) terminal.out(dump_json(out) + "\n");
  } else if (m.action == "get") {
    terminal.out_text(setting_text(load_settings(), need_name(m, 0, "key")) + "\n");
  } else if (m.action == "set") {
    save_setting(need_name(m, 0, "key"), need_name(m, 1, "value"));
  } else {
    save_setting(need_name(m, 0, "key"), std::nullopt);
  }
  terminal.flush();
  return 0;
}

int verb_explain(Runtime& runtime) {
  Terminal& terminal = runtime.terminal;
  Store& store = runtime.store();
  std::optional<AnswerRecord> record;
  if (runtime.options.manage.names.empty()) {
    std::vector<AnswerRecord> last = store.answers(1);
    if (!last.empty()) record = last.front();
  } else {
    record = store.answer(runtime.options.manage.names[0]);
  }
  if (!record)
    throw Error(ErrorKind::kNoInput, "no such answer", "apud ask -v prints the id of each answer");
  ordered_json trace = parse_json(record->trace);
  if (runtime.options.common.json) {
    trace["id"] = record->id;
    trace["question"] = record->question;
    terminal.out(dump_json(trace, 2) + "\n");
    terminal.flush();
    return 0;
  }
  std::string out = fmt::format("answer    {}  ({})\nquestion  {}\n", record->id,
                                date(record->created), record->question);
  const auto& retrieval = trace["retrieval"];
  if (retrieval.is_object() && !retrieval.empty()) {
    out += fmt::format("searched  {}\n", retrieval.value("query", ""));
    if (retrieval.contains("joined_query"))
      out += fmt::format("     and  {}\n", retrieval.value("joined_query", ""));
    out += fmt::format("best      cosine {:.3f}, relevance {:.3f}, abstain line {:.3f}{}\n",
                       retrieval.value("best_dense", 0.0), retrieval.value("relevance", 0.0),
                       retrieval.value("abstain_line", 0.0),
                       retrieval.value("below_line", false) ? " (below: refused)" : "");
    out += fmt::format("budget    {} of {} tokens, {} passages\n",
                       retrieval.value("evidence_tokens", 0), retrieval.value("budget", 0),
                       retrieval.value("passages", 0));
  }
  auto place = [](const ordered_json& of) {
    Anchor at{0, of.value("line", 0), of.value("page", 0), of.value("member", "")};
    return place_of(of.value("path", ""), at);
  };
  out += "\ncandidates (rank, fused, dense, bm25, tokens, rerank)\n";
  for (const auto& hit : trace["candidates"]) {
    auto number = [&](const char* key) {
      return hit.contains(key) && hit[key].is_number()
                 ? fmt::format("{:.3f}", hit[key].get<double>())
                 : std::string("-");
    };
    out += fmt::format("  {:>3}  {:>6} {:>6} {:>7} {:>6} {:>6}  {}\n", hit.value("rank", 0),
                       number("score"), number("dense"), number("bm25"), number("match"),
                       number("odds"), place(hit));
  }
  out += "\npassages in the prompt\n";
  for (const auto& p : trace["passages"]) {
    out +=
        fmt::format("  [{}] {}  score {:.3f}\n", p.value("id", 0), place(p), p.value("score", 0.0));
  }
  if (!trace["left_out"].empty()) {
    out += "\nleft out\n";
    for (const auto& l : trace["left_out"]) {
      out += fmt::format("  {}  score {:.3f}, {} tokens: {}\n", l.value("place", ""),
                         l.value("score", 0.0), l.value("tokens", 0), l.value("reason", ""));
    }
  }
  out += "\nanswer\n" + record->answer + "\n";
  out += "\nprompt\n" + trace.value("prompt", "") + "\n";
  terminal.out_text(out);
  terminal.flush();
  return 0;
}

}  // namespace apud
