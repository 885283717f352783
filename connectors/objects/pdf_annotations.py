"""What stands on a page of a PDF beside its content: values of form fields, and text of annotations."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pypdfium2 import raw  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import pypdfium2

_MAX_ANNOTATIONS: Final = 5_000  # of a page
_UNSEEN: Final = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
_PASSWORD: Final = 1 << 13  # ISO 32000-1, table 228
_WITH_TEXT: Final = {raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_TEXT, raw.FPDF_ANNOT_HIGHLIGHT}
_WRITTEN: Final = {raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX}


def fields_and_notes(document: pypdfium2.PdfDocument, page: pypdfium2.PdfPage) -> list[str]:
    """A line for each form field that has a value, and the text of each note, in the order of the page.

    A field is called by its label, or by its name; a box is `[x]` or `[ ]`. The forms of the document have
    to be initialized.
    """
    return [line for line in _lines(document, page) if line.strip()]


def _lines(document: pypdfium2.PdfDocument, page: pypdfium2.PdfPage) -> Iterator[str]:
    for index in range(min(raw.FPDFPage_GetAnnotCount(page), _MAX_ANNOTATIONS)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            if raw.FPDFAnnot_GetFlags(annotation) & _UNSEEN:
                continue
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if kind == raw.FPDF_ANNOT_WIDGET and document.formenv:
                yield _field(document.formenv, annotation)
            elif kind in _WITH_TEXT:
                yield _text(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
        finally:
            raw.FPDFPage_CloseAnnot(annotation)


def _field(form: Any, annotation: Any) -> str:
    """A field with its value; nothing for one without."""
    name = _text(raw.FPDFAnnot_GetFormFieldAlternateName, form, annotation)
    name = name or _text(raw.FPDFAnnot_GetFormFieldName, form, annotation)
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    is_checked = bool(raw.FPDFAnnot_IsChecked(form, annotation))
    if kind == raw.FPDF_FORMFIELD_CHECKBOX:
        return f"[{'x' if is_checked else ' '}] {name}"
    if kind == raw.FPDF_FORMFIELD_RADIOBUTTON:
        value = _text(raw.FPDFAnnot_GetFormFieldExportValue, form, annotation) if is_checked else ""
    elif kind in _WRITTEN and not raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
        value = _text(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
    else:
        value = ""
    return f"{name}: {value}" if value else ""


def _text(get: Callable[..., int], *arguments: Any) -> str:
    """What a function of pdfium gives in UTF-16, after it was asked for its length."""
    size = get(*arguments, None, 0)
    buffer = ctypes.create_string_buffer(size)
    get(*arguments, ctypes.cast(buffer, ctypes.POINTER(raw.FPDF_WCHAR)), size)
    text = buffer.raw[:size].decode("utf-16-le", "replace").rstrip("\0")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
