"""Microsoft Presidio as a detector of identifiers, where it is installed.

It needs `pip install presidio-analyzer` and a model of spaCy; both are the user's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lingshu.core.errors import ConfigError, MissingExtraError
from lingshu.deidentify.names import is_ordinary
from lingshu.deidentify.scrub import Detector
from lingshu.deidentify.spans import IdentifierSpan
from lingshu.deidentify.words import tokens

_KIND_OF_ENTITY: Mapping[str, str] = {
    "PERSON": "name", "LOCATION": "location", "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email",
    "URL": "url", "IP_ADDRESS": "id", "US_SSN": "id", "US_PASSPORT": "id", "UK_NHS": "id",
    "MEDICAL_LICENSE": "id", "IBAN_CODE": "id", "CREDIT_CARD": "id",
}  # fmt: skip


def detector(
    *,
    language: str = "en",
    spacy_model: str = "en_core_web_sm",
    min_score: float = 0.5,
    entities: Sequence[str] = tuple(_KIND_OF_ENTITY),
    ordinary_words: bool = False,
) -> Detector:
    """Open Presidio's analyzer with a spaCy model; dates are left to the rules.

    Raises:
        ConfigError: an entity that has no kind here, or a model that is not installed.
        MissingExtraError: presidio-analyzer is not installed.
    """
    for entity in entities:
        if entity not in _KIND_OF_ENTITY:
            known = ", ".join(_KIND_OF_ENTITY)
            raise ConfigError(f"{entity!r} is not an entity; choose among {known}.")
    try:
        from presidio_analyzer import AnalyzerEngine  # pyright: ignore[reportMissingImports]
        from presidio_analyzer.nlp_engine import NlpEngineProvider  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        problem = "presidio_analyzer is not installed; run: pip install presidio-analyzer"
        raise MissingExtraError(problem) from error
    models = [{"lang_code": language, "model_name": spacy_model}]
    try:
        provider = NlpEngineProvider(
            nlp_configuration={"nlp_engine_name": "spacy", "models": models}
        )
        engine = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language])
    except (OSError, SystemExit) as error:
        problem = f"the spaCy model {spacy_model!r} is not installed"
        raise ConfigError(f"{problem}; install it, or set spacy_model.") from error

    def find(text: str) -> list[IdentifierSpan]:
        results = engine.analyze(
            text, language=language, entities=list(entities), score_threshold=min_score
        )
        return [
            IdentifierSpan(r.start, r.end, _KIND_OF_ENTITY[r.entity_type], "presidio")
            for r in results
            if ordinary_words or any(not is_ordinary(w) for w in tokens(text[r.start : r.end]))
        ]

    return find
