# planlm::text: planlm with the libraries that the headers of text/ and io/ use. Part of the build and of the installed
# package, because header-only code needs these libraries where it is compiled, not where it is installed.
# Creates the target, or leaves it out and says in `planlm_text_missing` what is absent and which package brings it.

set(planlm_text_missing "")

find_package(ICU QUIET COMPONENTS uc)
if(NOT ICU_FOUND)
  list(APPEND planlm_text_missing "ICU, for sentences (Debian: libicu-dev)")
endif()

find_path(planlm_SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
find_library(planlm_SENTENCEPIECE_LIBRARY sentencepiece)
find_library(planlm_SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train)
mark_as_advanced(planlm_SENTENCEPIECE_INCLUDE planlm_SENTENCEPIECE_LIBRARY planlm_SENTENCEPIECE_TRAIN_LIBRARY)
if(NOT planlm_SENTENCEPIECE_INCLUDE OR NOT planlm_SENTENCEPIECE_LIBRARY OR NOT planlm_SENTENCEPIECE_TRAIN_LIBRARY)
  list(APPEND planlm_text_missing "SentencePiece, for the vocabulary (Debian: libsentencepiece-dev)")
endif()

find_package(nlohmann_json QUIET)
if(NOT nlohmann_json_FOUND)
  list(APPEND planlm_text_missing "nlohmann-json, for JSON (Debian: nlohmann-json3-dev)")
endif()

if(planlm_text_missing)
  list(JOIN planlm_text_missing ", " planlm_text_missing)
  string(PREPEND planlm_text_missing "missing ")
elseif(NOT TARGET planlm::text)
  add_library(planlm::text INTERFACE IMPORTED GLOBAL)
  set_property(TARGET planlm::text PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${planlm_SENTENCEPIECE_INCLUDE}")
  set_property(TARGET planlm::text PROPERTY INTERFACE_LINK_LIBRARIES
    planlm::planlm ICU::uc nlohmann_json::nlohmann_json
    "${planlm_SENTENCEPIECE_TRAIN_LIBRARY}" "${planlm_SENTENCEPIECE_LIBRARY}")
endif()
