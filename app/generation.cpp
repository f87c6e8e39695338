#include "app/generation.h"

#include <fmt/format.h>

#include <memory>

#include "app/citation_mask.h"
#include "app/signals.h"

namespace apud {

SamplingOptions sampling_options(const Options& options, double default_temperature) {
  const GenerationOptions& g = options.generation;
  SamplingOptions sampling;
  double temperature = g.temperature                       ? *g.temperature
                       : options.settings.temperature >= 0 ? options.settings.temperature
                                                           : default_temperature;
  sampling.temperature = static_cast<float>(temperature);
  sampling.top_k = g.top_k;
  sampling.top_p = static_cast<float>(g.top_p);
  sampling.min_p = static_cast<float>(g.min_p);
  sampling.repetition_penalty = static_cast<float>(g.repetition_penalty);
  sampling.presence_penalty = static_cast<float>(g.presence_penalty);
  sampling.frequency_penalty = static_cast<float>(g.frequency_penalty);
  return sampling;
}

void check_sampling(const Options& options, int samples) {
  Request asked;
  asked.sampling = sampling_options(options, 0);
  asked.n = samples;
  asked.beams = options.settings.beams;
  check_beams(asked);
  if (samples > 1 && asked.sampling.temperature <= 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--samples {}: greedy answers are all the same", samples),
                "add --temperature");
  }
}

Request make_request(const Options& options, const Prompt& prompt, int answer_tokens,
                     double default_temperature) {
  Request request;
  request.prompt = prompt.ids;
  request.sampling = sampling_options(options, default_temperature);
  request.max_tokens = answer_tokens;
  request.stop = options.generation.stop;
  request.seed = options.generation.seed;
  request.reasoning = prompt.reasoning;
  request.cancel = &cancel_flag();
  return request;
}

void restrict_citations(Request& request, const Model& model, std::span<const Passage> passages) {
  if (passages.empty()) return;
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<std::string> vocabulary;
  vocabulary.reserve(static_cast<size_t>(model.config().vocab));
  for (int32_t id = 0; id < model.config().vocab; ++id)
    vocabulary.push_back(id < tokenizer.vocab_size() ? tokenizer.decode_token(id) : "");
  std::vector<int> ids;
  for (const Passage& passage : passages) ids.push_back(passage.id);
  auto mask = std::make_shared<CitationMask>(std::move(vocabulary), std::move(ids));
  request.allowed = [mask, &tokenizer](std::span<const int32_t> generated) {
    std::string text;
    for (int32_t id : generated) text += tokenizer.decode_token(id);
    return mask->allowed(text);
  };
}

}  // namespace apud
