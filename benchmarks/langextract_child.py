"""Aligns values with LangExtract; run by `benchmarks.grounding` with a python that has it.

Takes `[tokenizer, [[text, [value, …]], …]]` as JSON and gives `[[[[start, end] or null, …], seconds], …]`.
"""

import json
import sys
import time
from importlib import import_module


def main() -> None:
    """Read standard input, write standard output."""
    tokenizers = import_module("langextract.core.tokenizer")
    extraction = import_module("langextract.core.data").Extraction
    aligner = import_module("langextract.resolver").WordAligner

    name, pages = json.load(sys.stdin)
    tokenizer = tokenizers.UnicodeTokenizer() if name == "unicode" else tokenizers.RegexTokenizer()

    def align(text: str, values: list[str]) -> list[list[int] | None]:
        wanted = [extraction(extraction_class="value", extraction_text=value) for value in values]
        (found,) = aligner().align_extractions([wanted], text, tokenizer_impl=tokenizer)
        spans = {id(one): one.char_interval for one in found}
        return [
            [span.start_pos, span.end_pos] if (span := spans.get(id(one))) is not None else None
            for one in wanted
        ]

    told = []
    for text, values in pages:
        align(text, values)
        started = time.process_time()
        spans = align(text, values)
        told.append([spans, time.process_time() - started])
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
