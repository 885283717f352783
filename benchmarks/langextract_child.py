"""Aligns values with LangExtract; run by `benchmarks.grounding` with a python that has it.

Takes `[tokenizer, [[text, [value, …]], …]]` as JSON and gives `[[[[start, end] or null, …], seconds], …]`.
"""

import json
import sys
import time


def main() -> None:
    """Read standard input, write standard output."""
    from langextract.core import tokenizer as tokenizers
    from langextract.core.data import Extraction
    from langextract.resolver import WordAligner

    name, pages = json.load(sys.stdin)
    tokenizer = tokenizers.UnicodeTokenizer() if name == "unicode" else tokenizers.RegexTokenizer()

    def align(text: str, values: list[str]) -> list[list[int] | None]:
        wanted = [Extraction(extraction_class="value", extraction_text=value) for value in values]
        (found,) = WordAligner().align_extractions([wanted], text, tokenizer_impl=tokenizer)
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
