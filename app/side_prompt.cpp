#include "app/side_prompt.h"

#include "app/answer.h"
#include "app/clock.h"
#include "app/generation.h"
#include "app/signals.h"
#include "engine/conversation.h"

namespace apud {

std::string side_reply(Runtime& runtime, const std::string& system, const std::string& ask,
                       int tokens, std::span<const Passage> citable) {
  Conversation conversation = Conversation::start(runtime.chat_model().model, system, unix_now());
  if (conversation.measure(ask, "") > runtime.context() - tokens) return {};
  conversation.add_user(ask, "", unix_now());
  Prompt prompt = conversation.prompt(runtime.context() - tokens, Think::kOff);
  Request request = make_request(runtime.options, prompt, tokens, 0);
  request.sampling = SamplingOptions{};
  request.stop.clear();
  request.save = false;
  restrict_citations(request, *runtime.chat_model().model, citable);
  Completion done = runtime.engine().generate(std::move(request)).best();
  if (done.finish_reason == FinishReason::kCancelled) throw Interrupted();
  return done.text;
}

}  // namespace apud
