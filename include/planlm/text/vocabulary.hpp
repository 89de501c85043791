/// Subword vocabulary: byte-pair encoding by SentencePiece, trained in memory and kept as bytes.
///
/// Nothing is unknown (rare characters are spelt in bytes) and nothing is normalised: decode(encode(s)) == s
/// for every tidied sentence, but for U+2581, SentencePiece's mark for a space, which comes back as a space.
/// Byte-pair encoding, because its counts are integers: the same sentences give the same ids whatever the
/// machine's rounding, and a small text still fills its vocabulary.
///   ids: 0 unknown (never given), 1 BOS, 2 .. 257 bytes, then pieces in the order learnt, then characters
#pragma once
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstdint>
#include <memory>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace planlm::text {

class vocabulary {
 public:
  /// The bytes, the marks and a first few characters: below this, no text can be told apart.
  static constexpr int smallest_size = 320;

  /// Learns at most `size` pieces; a text that holds fewer gives fewer, see `size()` and `requested_size()`.
  /// Of more than `most_sentences` sentences a random part of about that many is used, drawn by `seed`.
  static vocabulary train(std::span<const std::string> sentences, int size, std::uint64_t seed = 0,
                          int most_sentences = 30'000) {
    if (size < smallest_size)
      throw input_error("vocabulary of " + std::to_string(size) + " pieces: give at least " +
                        std::to_string(smallest_size) + " (256 are bytes)");
    if (most_sentences < 1)
      throw input_error("vocabulary trained on at most " + std::to_string(most_sentences) +
                        " sentences: give at least 1");
    sample training(sentences, seed, most_sentences);
    if (training.done())
      throw input_error(
          "no sentences to train a vocabulary on: give text with at least one non-blank sentence");
    // The alphabet that gets pieces of its own shrinks until it leaves room for words; the rest is spelt in
    // bytes.
    std::string model;
    sentencepiece::util::Status status;
    for (const char* alphabet_share : {"0.9995", "0.998", "0.99", "0.98"}) {
      training.rewind();
      model.clear();
      status = sentencepiece::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                           {"vocab_size", std::to_string(size)},
                                                           {"hard_vocab_limit", "false"},
                                                           {"character_coverage", alphabet_share},
                                                           {"byte_fallback", "true"},
                                                           {"normalization_rule_name", "identity"},
                                                           {"max_sentence_length", "1000000000"},
                                                           {"num_threads", "1"},
                                                           {"unk_id", "0"},
                                                           {"bos_id", "1"},
                                                           {"eos_id", "-1"},
                                                           {"minloglevel", "4"}},
                                                          &training, &model);
      if (status.ok()) break;
    }
    if (!status.ok()) throw input_error(training_failure(status.message(), size, sentences.size()));
    vocabulary trained = from_model(std::move(model));
    trained.requested_size_ = size;
    return trained;
  }

  /// From the bytes that `model()` gave.
  static vocabulary from_model(std::string bytes) {
    auto pieces = std::make_shared<sentencepiece::SentencePieceProcessor>();
    const auto status = pieces->LoadFromSerializedProto(bytes);
    if (!status.ok() || pieces->GetPieceSize() < 1)
      throw input_error(
          "vocabulary: " + std::to_string(bytes.size()) +
          " bytes that are no SentencePiece model, or a truncated one: give the bytes that were saved");
    if (pieces->bos_id() < 0)
      throw input_error(
          "vocabulary: this SentencePiece model has no BOS piece; give one trained with bos_id set");
    return {std::move(pieces), std::move(bytes)};
  }

  /// Ids of one sentence, without BOS.
  std::vector<int> encode(std::string_view sentence) const {
    std::vector<int> ids;
    check(pieces_->Encode(sentence, &ids), "encode");
    return ids;
  }

  /// The text of ids; BOS has none. Ids of several sentences give them with a space between.
  std::string decode(std::span<const int> ids, location at = location::here()) const {
    for (const int id : ids)
      if (id < 0 || id >= size())
        throw_shape_error("vocabulary: decode of id " + std::to_string(id) + ", expected 0 to " +
                              std::to_string(size() - 1),
                          at);
    std::string sentence;
    check(pieces_->Decode(std::vector<int>(ids.begin(), ids.end()), &sentence), "decode");
    return sentence;
  }

  int size() const { return pieces_->GetPieceSize(); }
  /// What `train` was asked for; the same as `size()` for a loaded model.
  int requested_size() const { return requested_size_; }
  int bos() const { return pieces_->bos_id(); }
  /// The piece as SentencePiece writes it, with U+2581 for the space before a word; for people.
  std::string piece(int id) const { return pieces_->IdToPiece(id); }
  /// SentencePiece's own serialized model: everything there is to save.
  const std::string& model() const { return model_; }

 private:
  /// The sentences of the training sample one after the other, without copying them.
  class sample final : public sentencepiece::SentenceIterator {
   public:
    sample(std::span<const std::string> sentences, std::uint64_t seed, int most) : all_(sentences) {
      const philox draws{seed, 0, 0x766f6361u};
      const auto n = static_cast<std::uint32_t>(sentences.size());
      for (std::uint32_t i = 0; i < n; ++i)
        if (!sentences[i].empty() && draws.below(n, i, 0) < static_cast<std::uint32_t>(most))
          chosen_.push_back(i);
    }
    void rewind() { next_ = 0; }
    bool done() const override { return next_ == chosen_.size(); }
    void Next() override { ++next_; }
    const std::string& value() const override { return all_[chosen_[next_]]; }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    std::span<const std::string> all_;
    std::vector<std::uint32_t> chosen_;
    std::size_t next_ = 0;
  };

  /// SentencePiece says "... required_chars. SIZE vs NEEDED. ..." where the alphabet leaves no room.
  static std::string training_failure(const std::string& reason, int size, std::size_t sentences) {
    const std::size_t at = reason.find(std::to_string(size) + " vs ");
    const std::string asked = "vocabulary of " + std::to_string(size) + " pieces: ";
    if (at == std::string::npos)
      return asked + "cannot be trained on " + std::to_string(sentences) + " sentences (" + reason +
             "); give another size or more text";
    const std::string needed = reason.substr(reason.find(" vs ", at) + 4);
    return asked + "the characters and bytes of this text alone take " + needed.substr(0, needed.find('.')) +
           "; give a larger size";
  }

  vocabulary(std::shared_ptr<const sentencepiece::SentencePieceProcessor> pieces, std::string model)
      : pieces_(std::move(pieces)), model_(std::move(model)), requested_size_(pieces_->GetPieceSize()) {}

  static void check(const sentencepiece::util::Status& status, const char* what) {
    if (!status.ok())
      throw error(std::string("vocabulary: SentencePiece cannot ") + what + ": " + status.message());
  }

  std::shared_ptr<const sentencepiece::SentencePieceProcessor> pieces_;  // shared by copies: it is immutable
  std::string model_;
  int requested_size_;
};

}  // namespace planlm::text
