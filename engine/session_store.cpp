#include "engine/session_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/nearest.h"
#include "base/utf8.h"

namespace apud {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr uint64_t kMaxFile = 256ull << 20;
constexpr int kMaxDepth = 64;

bool is_id(const std::string& text) {
  return text.size() == 12 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string fresh_id() {
  std::random_device device;
  uint64_t bits = (static_cast<uint64_t>(device()) << 32) | device();
  std::string id;
  for (int i = 0; i < 12; ++i) id += "0123456789abcdef"[(bits >> (4 * i)) & 15];
  return id;
}

Error damaged(const Path& path, const std::string& what) {
  return Error(ErrorKind::kBadData, "session file " + path.string() + ": " + what,
               "it was left untouched; restore it from a backup or move it away");
}

Json parse(const Path& path, const std::string& text) {
  bool deep = false;
  auto guard = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) deep = true;
    return !deep;
  };
  Json json = Json::parse(text, guard, false);
  if (deep) throw damaged(path, "nested deeper than " + std::to_string(kMaxDepth));
  if (json.is_discarded() || !json.is_object()) throw damaged(path, "not a JSON object");
  return json;
}

/// Typed access to a member; anything else than expected is named.
class Reader {
 public:
  Reader(const Path& path, const Json& json) : path_(path), json_(json) {}
  std::string text(const char* name) const {
    const Json& value = need(name, &Json::is_string, "a string");
    return value.get<std::string>();
  }
  int64_t integer(const char* name, int64_t low, int64_t high) const {
    const Json& value = need(name, &Json::is_number_integer, "an integer");
    auto number = value.get<int64_t>();
    if (number < low || number > high) {
      throw damaged(path_, std::string(name) + " " + std::to_string(number) + " out of range");
    }
    return number;
  }
  bool boolean(const char* name) const {
    return need(name, &Json::is_boolean, "true or false").get<bool>();
  }
  const Json& array(const char* name) const { return need(name, &Json::is_array, "an array"); }
  const Json& object(const char* name) const { return need(name, &Json::is_object, "an object"); }
  std::vector<int32_t> ids(const char* name) const {
    std::vector<int32_t> out;
    for (const Json& value : array(name)) {
      if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
          value.get<int64_t>() > INT32_MAX) {
        throw damaged(path_, std::string(name) + ": expected token ids");
      }
      out.push_back(static_cast<int32_t>(value.get<int64_t>()));
    }
    return out;
  }
  /// A JSON value as text, empty where null.
  std::string raw(const char* name) const {
    auto found = json_.find(name);
    if (found == json_.end() || found->is_null()) return {};
    return found->dump(-1, ' ', false, Json::error_handler_t::replace);
  }

 private:
  const Json& need(const char* name, bool (Json::*is)() const noexcept,
                   const char* expected) const {
    auto found = json_.find(name);
    if (found == json_.end() || !((*found).*is)()) {
      throw damaged(path_, std::string(name) + ": expected " + expected);
    }
    return *found;
  }
  const Path& path_;
  const Json& json_;
};

Json value_of(const std::string& json_text) {
  if (json_text.empty()) return nullptr;
  Json value = Json::parse(json_text, nullptr, false);
  APUD_CHECK(!value.is_discarded(), "opaque data of a session is JSON");
  return value;
}

Json to_json(const Session& session) {
  const ConversationData& data = session.conversation;
  Json turns = Json::array();
  for (const Turn& turn : data.turns) {
    turns.push_back({{"role", turn.role},
                     {"content", turn.content},
                     {"evidence", turn.evidence},
                     {"reasoning", turn.reasoning},
                     {"ids", turn.ids},
                     {"finish_reason", turn.finish_reason},
                     {"data", value_of(turn.data_json)},
                     {"time", turn.time}});
  }
  return {{"apud_session", kVersion},
          {"id", session.info.id},
          {"name", session.info.name},
          {"named", session.info.named},
          {"model", session.info.model},
          {"collections", session.info.collections},
          {"created", session.info.created},
          {"updated", session.info.updated},
          {"conversation",
           {{"system", data.system},
            {"template_now", data.template_now},
            {"first_turn", data.first_turn},
            {"model_fingerprint", data.model_fingerprint},
            {"sent", data.sent},
            {"turns", turns}}},
          {"extra", value_of(session.extra_json)}};
}

Session from_json(const Path& path, const Json& json) {
  Reader top(path, json);
  int64_t version = top.integer("apud_session", 1, INT32_MAX);
  if (version > kVersion) {
    throw Error(ErrorKind::kBadData,
                "session file " + path.string() + ": version " + std::to_string(version) +
                    ", this program knows " + std::to_string(kVersion),
                "update apud");
  }
  Session session;
  session.info.id = top.text("id");
  if (session.info.id + ".json" != path.filename().string()) {
    throw damaged(path, "id " + printable(session.info.id, true) + " is not the file's name");
  }
  session.info.name = top.text("name");
  session.info.named = top.boolean("named");
  session.info.model = top.text("model");
  for (const Json& name : top.array("collections")) {
    if (!name.is_string()) throw damaged(path, "collections: expected strings");
    session.info.collections.push_back(name.get<std::string>());
  }
  session.info.created = top.integer("created", INT64_MIN, INT64_MAX);
  session.info.updated = top.integer("updated", INT64_MIN, INT64_MAX);
  session.extra_json = top.raw("extra");
  Reader conversation(path, top.object("conversation"));
  ConversationData& data = session.conversation;
  data.system = conversation.text("system");
  data.template_now = conversation.integer("template_now", INT64_MIN, INT64_MAX);
  data.model_fingerprint = conversation.text("model_fingerprint");
  data.sent = conversation.ids("sent");
  for (const Json& value : conversation.array("turns")) {
    if (!value.is_object()) throw damaged(path, "turns: expected objects");
    Reader reader(path, value);
    Turn turn;
    turn.role = reader.text("role");
    std::string expected = data.turns.size() % 2 == 0 ? "user" : "assistant";
    if (turn.role != expected) {
      throw damaged(path,
                    "turn " + std::to_string(data.turns.size()) + ": expected role " + expected);
    }
    turn.content = reader.text("content");
    turn.evidence = reader.text("evidence");
    turn.reasoning = reader.text("reasoning");
    turn.ids = reader.ids("ids");
    turn.finish_reason = reader.text("finish_reason");
    turn.data_json = reader.raw("data");
    turn.time = reader.integer("time", INT64_MIN, INT64_MAX);
    data.turns.push_back(std::move(turn));
  }
  auto turns = static_cast<int64_t>(data.turns.size());
  data.first_turn =
      static_cast<int>(conversation.integer("first_turn", 0, std::max<int64_t>(0, turns - 1)));
  if (data.first_turn % 2 != 0) throw damaged(path, "first_turn: expected a question");
  session.info.turns = static_cast<int>(turns);
  return session;
}

/// A name from the first question: one line, at most 48 columns.
std::string name_from(const Session& session) {
  if (session.conversation.turns.empty()) return "empty";
  std::string text = printable(session.conversation.turns.front().content.substr(0, 400), true);
  std::string out;
  int columns = 0;
  for (size_t i = 0; i < text.size();) {
    Utf8Char c = utf8_decode(text, i);
    columns += display_width(c.code);
    if (columns > 48) break;
    out.append(text, i, c.size);
    i += c.size;
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out.empty() ? "empty" : out;
}

}  // namespace

SessionStore::SessionStore(Path folder) : folder_(std::move(folder)) {}
Path SessionStore::default_folder() { return data_dir() / "sessions"; }
Path SessionStore::file(const std::string& id) const { return folder_ / (id + ".json"); }

Session SessionStore::create(const std::string& name, int64_t now) const {
  Session session;
  do {
    session.info.id = fresh_id();
  } while (std::filesystem::exists(file(session.info.id)));
  session.info.name = name;
  session.info.named = !name.empty();
  session.info.created = session.info.updated = now;
  if (!name.empty()) {
    for (const SessionInfo& other : list()) {
      if (other.name == name) {
        throw Error(ErrorKind::kUsage, "a session named " + printable(name, true) + " exists",
                    "resume it with -s, or choose another name");
      }
    }
  }
  return session;
}

Path SessionStore::name_lock(const std::string& name) const {
  return folder_ / ("name-" + sha256_hex(name).substr(0, 16) + ".lock");
}

SessionStore::Lock SessionStore::open(const SessionInfo& session) const {
  return hold(folder_ / (session.id + ".lock"), session.name);
}

SessionStore::Lock SessionStore::reserve(const std::string& name) const {
  return hold(name_lock(name), name);
}

SessionStore::Lock SessionStore::hold(const Path& path, const std::string& name) const {
  make_private_dir(folder_);
  std::optional<FileLock> lock = FileLock::try_acquire(path);
  if (!lock) {
    std::optional<int> pid = FileLock::holder(path);
    throw Error(ErrorKind::kBusy,
                "session " + printable(name, true) + " is open in another window" +
                    (pid ? " (process " + std::to_string(*pid) + ")" : std::string()),
                "close it there, or continue in a copy with --fork");
  }
  return Lock(std::move(*lock));
}

void SessionStore::save(Session& session, int64_t now) const {
  make_private_dir(folder_);
  session.info.updated = now;
  session.info.turns = static_cast<int>(session.conversation.turns.size());
  if (session.info.name.empty()) {
    std::string base = name_from(session);
    session.info.name = base;
    std::vector<SessionInfo> others = list();
    auto taken = [&] {
      return std::any_of(others.begin(), others.end(), [&](const SessionInfo& other) {
        return other.name == session.info.name && other.id != session.info.id;
      });
    };
    for (int i = 2; taken(); ++i) session.info.name = base + " (" + std::to_string(i) + ")";
  }
  write_file_atomic(file(session.info.id),
                    to_json(session).dump(1, ' ', false, Json::error_handler_t::replace) + "\n",
                    0600);
}

Session SessionStore::load(const std::string& name_or_id) const {
  Path path = file(resolve(name_or_id));
  return from_json(path, parse(path, read_file(path, kMaxFile)));
}

std::vector<SessionInfo> SessionStore::list(std::vector<std::string>* damaged_files) const {
  // Of two that were updated in one second, the file written later is the later one.
  std::vector<std::pair<SessionInfo, std::filesystem::file_time_type>> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder_, error), end; !error && it != end;
       it.increment(error)) {
    const Path& path = it->path();
    if (path.extension() != ".json" || !is_id(path.stem().string())) continue;
    try {
      SessionInfo info = from_json(path, parse(path, read_file(path, kMaxFile))).info;
      std::error_code gone;  // meanwhile: oldest of its second
      found.emplace_back(std::move(info), std::filesystem::last_write_time(path, gone));
    } catch (const Error& caught) {
      if (damaged_files) damaged_files->push_back(caught.what());
    }
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::tie(b.first.updated, b.second, a.first.id) <
           std::tie(a.first.updated, a.second, b.first.id);
  });
  std::vector<SessionInfo> out;
  out.reserve(found.size());
  for (auto& [info, written] : found) out.push_back(std::move(info));
  return out;
}

std::optional<SessionInfo> SessionStore::last() const {
  std::vector<SessionInfo> all = list();
  if (all.empty()) return std::nullopt;
  return all.front();
}

std::string SessionStore::resolve(const std::string& name_or_id) const {
  if (is_id(name_or_id) && std::filesystem::exists(file(name_or_id))) return name_or_id;
  std::vector<SessionInfo> all = list();
  std::vector<std::string> begins;
  for (const SessionInfo& info : all) {
    if (info.name == name_or_id) return info.id;
    if (name_or_id.size() >= 3 && info.id.starts_with(name_or_id)) begins.push_back(info.id);
  }
  if (begins.size() == 1) return begins.front();
  std::vector<std::string> names;
  names.reserve(all.size());
  for (const SessionInfo& info : all) names.push_back(info.name);
  std::string advice;
  for (const std::string& near : nearest_names(name_or_id, names))
    advice += (advice.empty() ? "there is " : ", ") + printable(near, true);
  if (advice.empty())
    advice = all.empty() ? "no session was saved yet" : "apud session list shows them";
  throw Error(ErrorKind::kNoInput, "no session " + printable(name_or_id, true), advice);
}

void SessionStore::rename(const std::string& name_or_id, const std::string& new_name) const {
  if (new_name.empty()) throw Error(ErrorKind::kUsage, "a session's name may not be empty");
  Session session = load(name_or_id);
  Lock name = reserve(new_name);
  for (const SessionInfo& other : list()) {
    if (other.name == new_name && other.id != session.info.id) {
      throw Error(ErrorKind::kUsage, "a session named " + printable(new_name, true) + " exists",
                  "choose another name");
    }
  }
  Lock lock = open(session.info);
  session = load(session.info.id);
  session.info.name = new_name;
  session.info.named = true;
  save(session, session.info.updated);
}

Session SessionStore::fork(const std::string& name_or_id, const std::string& new_name, int turns,
                           int64_t now) const {
  Session copy = load(name_or_id);
  Session fresh = create(new_name, now);
  std::string base = copy.info.name;
  copy.info.id = fresh.info.id;
  copy.info.created = now;
  copy.info.named = !new_name.empty();
  copy.info.name = new_name;
  if (new_name.empty()) {
    std::vector<SessionInfo> others = list();
    for (int i = 2;; ++i) {
      copy.info.name = base + " (" + std::to_string(i) + ")";
      if (std::none_of(others.begin(), others.end(),
                       [&](const SessionInfo& other) { return other.name == copy.info.name; })) {
        break;
      }
    }
  }
  ConversationData& data = copy.conversation;
  if (turns > 0 && turns < static_cast<int>(data.turns.size())) {
    data.turns.resize(static_cast<size_t>(turns));
    if (data.first_turn >= turns) data.first_turn = 0;
  }
  save(copy, now);
  return copy;
}

std::string SessionStore::remove(const std::string& name_or_id) const {
  // A damaged file can be removed by its id.
  SessionInfo session;
  session.id = session.name = resolve(name_or_id);
  for (const SessionInfo& info : list()) {
    if (info.id == session.id) session.name = info.name;
  }
  Lock lock = open(session);
  Path path = file(session.id);
  if (unlink(path.c_str()) != 0) throw io_error("cannot remove", path.string(), errno);
  unlink((folder_ / (session.id + ".lock")).c_str());
  unlink(name_lock(session.name).c_str());
  return session.id;
}

std::string export_session_json(const Session& session) {
  return to_json(session).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string export_session_markdown(const Session& session, bool receipts) {
  std::string out = "# " + printable(session.info.name, true) + "\n\n";
  out += "Model: " + printable(session.info.model, true) + "\n";
  if (!session.info.collections.empty()) {
    out += "Documents:";
    for (const std::string& name : session.info.collections) out += " " + printable(name, true);
    out += "\n";
  }
  if (!session.conversation.system.empty()) out += "\n> " + session.conversation.system + "\n";
  for (const Turn& turn : session.conversation.turns) {
    out += turn.role == "user" ? "\n## Question\n\n" : "\n## Answer\n\n";
    out += turn.content + "\n";
    std::optional<Receipt> receipt;
    if (receipts && turn.role == "assistant") receipt = receipt_from_json(turn.data_json);
    if (!receipt) continue;
    std::istringstream lines(receipt_details(*receipt));
    out += '\n';
    for (std::string line; std::getline(lines, line);) out += "> " + line + "\n";
  }
  return out;
}

}  // namespace apud
