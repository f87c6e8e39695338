// Answers with their traces, and what they were made from.
#include "rag/store/impl.h"

namespace apud {
namespace {

using sqlite::Database;
using sqlite::Statement;

AnswerRecord read_answer(Database& db, Statement& row) {
  AnswerRecord record{row.text(0), row.integer(1), row.text(2), row.text(3),
                      row.text(4), row.text(5),    {}};
  Statement documents(db,
                      "SELECT document FROM answer_documents WHERE answer = ? ORDER BY document");
  documents.add(record.id);
  while (documents.row()) record.documents.push_back(documents.integer(0));
  return record;
}

}  // namespace

std::string Store::save_answer(WriteLock&, AnswerRecord record) {
  Database& db = impl_->writable();
  if (record.id.empty()) {
    static const char* alphabet = "0123456789abcdefghjkmnpqrstvwxyz";  // no i, l, o, u
    uint64_t bits = sqlite::random64();
    for (int i = 0; i < 12; ++i, bits >>= 5) record.id += alphabet[bits & 31];
  }
  sqlite::Transaction transaction(db);
  Statement(
      db, "INSERT INTO answers(id, created, session, question, answer, trace) VALUES(?,?,?,?,?,?)")
      .add(record.id)
      .add(record.created ? record.created : sqlite::now_seconds())
      .add(record.session)
      .add(record.question)
      .add(record.answer)
      .add(record.trace)
      .run();
  Statement link(db, "INSERT OR IGNORE INTO answer_documents(answer, document) VALUES(?,?)");
  for (int64_t document : record.documents) link.add(record.id).add(document).run();
  transaction.commit();
  return record.id;
}

std::optional<AnswerRecord> Store::answer(std::string_view id) {
  Database& db = impl_->database();
  Statement select(
      db, "SELECT id, created, session, question, answer, trace FROM answers WHERE id = ?");
  select.add(id);
  if (!select.row()) return std::nullopt;
  return read_answer(db, select);
}

std::vector<AnswerRecord> Store::answers(int limit) {
  Database& db = impl_->database();
  Statement select(db,
                   "SELECT id, created, session, question, answer, trace FROM answers "
                   "ORDER BY created DESC, rowid DESC LIMIT ?");
  select.add(static_cast<int64_t>(limit));
  std::vector<AnswerRecord> all;
  while (select.row()) all.push_back(read_answer(db, select));
  return all;
}

void Store::remove_session_answers(WriteLock&, std::string_view session) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  Statement(
      db, "DELETE FROM answer_documents WHERE answer IN (SELECT id FROM answers WHERE session = ?)")
      .add(session)
      .run();
  Statement(db, "DELETE FROM answers WHERE session = ?").add(session).run();
  transaction.commit();
}

}  // namespace apud
