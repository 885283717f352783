"""The meaning of exit codes, errors and types of dead letters, and what to do about them."""
# ruff: noqa: E501 - a line is an entry

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["ALL", "SECTIONS", "Explanation"]


class Explanation(NamedTuple):
    """A meaning without a full stop, and a remedy in sentences."""

    meaning: str
    remedy: str


EXIT_CODES: Mapping[str, Explanation] = {
    "0": Explanation("Everything completed", "Dead letters within the limit do not count as a failure: `dlq list` shows them."),
    "1": Explanation("A run or a check failed", "The message names the node. Fix the cause, then continue with `run --resume`."),
    "2": Explanation("The file or the arguments are not valid", "The message has the line and column. `validate` reports all problems at once."),
    "3": Explanation("The state directory, a service or a connection cannot be used", "`doctor` tries each of them and names the remedy."),
    "4": Explanation("More records died than the pipeline allows", "`dlq list` shows why. Fix the cause and `run --resume`, or raise `dead_letters.max`."),
    "5": Explanation("A service was away for longer than `outage_limit`", "Nothing is lost. When it is back, continue with `run --resume`."),
    "6": Explanation("A run was drained before its end", "Continue with `run --resume`."),
    "7": Explanation("`--verify` or `--chaos` found a difference", "The lines with MISMATCH name the node and both counts."),
    "130": Explanation("A second Ctrl-C ended the process at once", "What was committed is kept: continue with `run --resume`."),
    "143": Explanation("A second SIGTERM ended the process at once", "What was committed is kept: continue with `run --resume`."),
}  # fmt: skip

ERRORS: Mapping[str, Explanation] = {
    "ConfigError": Explanation("The file, its parameters or the environment are not valid", "Every problem has its place. docs/errors.md shows likely ones."),
    "RegistryError": Explanation("A component does not exist, or a package that it needs is not installed", "`connectors list` shows all; the message has the `pip install` command of a missing extra."),
    "StateError": Explanation("The state store cannot be used", "`doctor` checks the directory and the disk."),
    "StateCorruptError": Explanation("The state store exists but cannot be read", "Restore it from a backup, or move it away and start without it: docs/state.md."),
    "StateReadOnlyError": Explanation("The state store cannot be written", "Give the user the right to write there, or name another with --state-dir."),
    "StateFullError": Explanation("The disk of the state store is full", "Free some space, or `runs prune`; then `run --resume`."),
    "StateVersionError": Explanation("The state store was written by a newer engine", "Upgrade odw-engine, or name another state with --state-dir."),
    "StateMissingError": Explanation("Nothing has run with this state yet", "Name the directory of the runs with --state-dir, or run something first."),
    "LeaseHeldError": Explanation("Another process is working on the run", "Stop it, or wait: the lease of a killed process expires."),
    "RunOverlapError": Explanation("Another run of the pipeline is in progress", "Wait for it, or allow several with `if_running: allow`."),
    "LeaseLostError": Explanation("Another process took over the run", "This process was suspended too long. The other one continues; do nothing."),
    "RunNotFoundError": Explanation("The state store has no such run", "`runs list` shows the existing runs."),
    "RunExistsError": Explanation("Another process started a run with that id", "Start again."),
    "RunMismatchError": Explanation("The run was started with a different plan", "The message has the differences: undo them to resume, or start a new run."),
    "ServiceError": Explanation("An embedded service could not start, or stopped", "Its own message is in the text; `doctor` checks what it needs."),
    "RunError": Explanation("A run ended early", "Acknowledged records stay delivered: continue with `run --resume`."),
    "OutageError": Explanation("Nothing succeeded at a node for longer than `outage_limit`", "When the service is back, continue with `run --resume`."),
    "DeadLetterBudgetError": Explanation("More records died than the pipeline allows", "`dlq list` shows why. Fix the cause and `run --resume`, or raise `dead_letters.max`."),
    "InputMissingError": Explanation("The run read less than the pipeline requires", "Look at the pattern of the source, `require_match` and `min_records`."),
    "NodeFailedError": Explanation("A node failed in a way that no retry can fix", "ODW_TRACEBACK=1 shows where. For functions of your own: `on_error: dead_letter`."),
    "PipelineTimeoutError": Explanation("The pipeline ran longer than its `timeout`", "Raise it, and continue with `run --resume`."),
    "StalledError": Explanation("No progress for too long, without a failure", "Look at what the node waits for; then `run --resume`."),
    "ComponentError": Explanation("A source, transform or sink failed", "docs/library.md explains these errors."),
    "TransientError": Explanation("A failure that a retry may fix", "The engine retries until `outage_limit`; do nothing."),
    "StoppingError": Explanation("The run is stopping before this record could be finished", "`run --resume` reads it again."),
    "RecordError": Explanation("The record can never be delivered, so it became a dead letter", "`dlq show` has the record; fix it with `dlq replay --patch`."),
    "FatalError": Explanation("Nothing can be delivered: credentials, an address or a name is wrong", "`doctor` tries the connections. Then `run --resume`."),
    "BatchError": Explanation("Some records of a batch failed; the others arrived", "`dlq list` shows the ones that died."),
}  # fmt: skip

DEAD_LETTERS: Mapping[str, Explanation] = {
    "AnswerTruncated": Explanation("The model's answer was cut off, even for this document alone", "Raise `max_tokens`, set `split_tokens`, or ask for fewer fields."),
    "BadPartition": Explanation("The name of a partition folder is not of the type in `hive_types`", "Declare another type, or rename the folder."),
    "BatchRefused": Explanation("The ingest service rejected a whole batch with this record", "The message has its status and answer. Fix the cause, then `dlq replay`."),
    "BrokenLine": Explanation("A line is not JSON", "The key names file and line. Fix the file, or patch the dead letter."),
    "BrokenRow": Explanation("A row of a CSV file cannot be read", "The key names file and line. Fix the file, and read it again with a new run."),
    "CastError": Explanation("`cast` cannot convert the value", "The message names the field. `parse` reads numbers and dates in other forms."),
    "ConstraintViolated": Explanation("A database constraint or trigger rejects the row", "The message names it. Patch the dead letter, or change the table; then `dlq replay`."),
    "ContentFilter": Explanation("The vendor's filter blocked the model's answer", "Send the document to another model, or ask the vendor for other filter settings."),
    "CorruptDocument": Explanation("A document cannot be opened", "Open it by hand; replace it, and read it again with a new run."),
    "DeduplicateError": Explanation("The key of `deduplicate` cannot be compared", "Write a `key` whose values are texts or numbers."),
    "DocumentTooLarge": Explanation("A document is larger than its limit", "Raise the limit of the node, or leave the document out."),
    "DocumentTooLong": Explanation("A document has more tokens than the model takes", "Use a model with a longer context."),
    "DocumentTooSlow": Explanation("Opening a document took too much processor time", "Split or simplify it, and start a new run."),
    "EmptyRecord": Explanation("No field of the record has a value", "Leave such records out with `filter`."),
    "EnrichError": Explanation("The key of `enrich` is a list or a mapping", "Use a field that holds a text or a number."),
    "ExplodeError": Explanation("The field of `explode` is not a list, or the list is too long", "The message names the field. See `max_items` and `merge` of the node."),
    "ExpressionError": Explanation("An expression failed for this record", "The message names the expression. Guard it, e.g. `n is not None and n > 0`."),
    "FieldName": Explanation("A field has a name that cannot be a column", "Rename it with `map` before the sink."),
    "FileChanged": Explanation("A file changed while it was being read", "A new run reads the new content."),
    "FileDamaged": Explanation("A file is damaged or cut off; the lines before the damage were read", "Replace the file, and start a new run."),
    "FileUnreadable": Explanation("A file cannot be read", "The message has the reason, often permissions. Then start a new run."),
    "FileVanished": Explanation("A file was removed after the run had begun", "Put it back, or start a new run."),
    "FlattenError": Explanation("`flatten` would give two fields the same name", "Set another `separator`, or flatten only `fields`."),
    "FolderUnreadable": Explanation("A folder cannot be listed", "Grant access to it, and start a new run."),
    "HashError": Explanation("A value cannot be hashed", "The message names the field. Convert or drop it with `map`."),
    "InvalidFields": Explanation("The extracted record does not fit the schema", "The message has the reasons. Loosen the field, or describe it better."),
    "InvalidRecord": Explanation("The record does not fit the schema", "The message names the field. `map` can cast or default it before."),
    "InvalidText": Explanation("A text has invalid bytes (with `strict_text`), or its charset cannot be guessed", "Set the right `charset`, or leave out `strict_text`."),
    "LongLine": Explanation("A line is longer than `max_line_bytes` or `max_record_bytes`", "Raise the limit, or fix the file."),
    "MalformedReply": Explanation("The model's answer was not JSON", "Try `answer_form`, or another model; the dead letter has what it wrote."),
    "MarkedAsFailure": Explanation("A field of the record starts with `[DLQ]`, which marks it as a failure", "Remove the mark with `dlq replay --patch`."),
    "MaskError": Explanation("A value cannot be masked by that method", "Use `redact`, which takes any value."),
    "MissingField": Explanation("The record lacks a field of the template", "Fill it with `map: {default: …}`, or patch the dead letter."),
    "MissingFields": Explanation("The model did not state a field that the schema requires", "Make it optional, or describe it better."),
    "MissingId": Explanation("`confirm: visible` needs the record's `id`", "Fill the field with a text, a whole number or a UUID."),
    "MissingKey": Explanation("The record lacks the field that identifies it", "Look at `key:` of the source, or fill the field."),
    "NoFieldToMark": Explanation("`simulate_failures` finds no text field to mark", "Set its `field`."),
    "NoMatch": Explanation("The reference table has no row for the record", "Add the row, then `dlq replay`; or set `missing: keep`."),
    "NoPartition": Explanation("A value of `partition_by` cannot name a folder", "Partition by short texts, numbers or dates, or correct the value before the sink."),
    "NotAFile": Explanation("A record without `file_path` and `content` cannot be staged", "Read the files with a source that provides both."),
    "NotAMapping": Explanation("A record is neither a mapping nor a model", "Return one of these from the function or source before."),
    "NotAnObject": Explanation("A value returned as a record is not a mapping", "Return a mapping from the function that the message names; of an API, fix `records` of the source."),
    "NotCsv": Explanation("CSV cannot express the record", "The message has the reason. Convert or drop the field with `map`."),
    "NotGrounded": Explanation("The document does not state a value that was extracted", "Compare the value with the document, or remove the field from `require_grounding`."),
    "NotJson": Explanation("JSON cannot express the record", "The message has the reason. Convert or drop the field with `map`."),
    "NotParquet": Explanation("A value does not fit its Parquet column", "The message names it. Declare its `types`, or convert the field with `map`."),
    "NotSerializable": Explanation("JSON cannot express the record", "The message has the reason. Convert or drop the field with `map`."),
    "NotStaged": Explanation("A record lacks the text, the id or the path of a document", "Name the fields with `text_field`, `id_field` and `uri_field`, or convert them with `cast`."),
    "NotText": Explanation("A file is not text, although its format requires it", "Exclude it by pattern, or read it with `format: document`."),
    "ObjectArchived": Explanation("An object is in an archive and cannot be read at once", "Restore it, and start a new run."),
    "ObjectChanged": Explanation("An object was replaced while it was being read", "The next run reads the new version."),
    "ObjectDamaged": Explanation("The packed content of an object is damaged or cut off", "Replace the object, and start a new run."),
    "ObjectForbidden": Explanation("An object may not be read", "Grant `s3:GetObject` and the use of its key, and start a new run."),
    "ObjectTooLarge": Explanation("An object is larger than `max_object_bytes`, or too large when unpacked", "Raise `max_object_bytes`, `max_unpacked_bytes` or `max_unpacked_ratio`, or exclude the object by pattern."),
    "ObjectUnreadable": Explanation("An object failed at every try while others were read", "The message has the last answer. Start a new run to try again."),
    "ObjectVanished": Explanation("An object was deleted after the run had begun", "Start a new run."),
    "ParseError": Explanation("`parse` cannot read the text", "The message names the field. Set its `format`, `decimal` or `zone`, or patch the dead letter."),
    "RecordRefused": Explanation("The ingest service rejected the record", "The message has its status and answer. Fix the record with `dlq replay --patch`."),
    "RecordTooLarge": Explanation("A record is larger than the limit", "Leave out or shorten a field with `map`."),
    "Refused": Explanation("The model declined to answer about the document", "Change the instructions, or use another model."),
    "RenameError": Explanation("`rename` would give two fields the same name", "Drop one of them in an earlier node."),
    "RequestRefused": Explanation("The model's endpoint rejected the document", "The message has its answer. Change the document, or use another model."),
    "RetriesExhausted": Explanation("This record kept failing while others succeeded", "The message has the last error. `dlq replay` tries again."),
    "RowTooLarge": Explanation("A row is larger than the target accepts", "Leave out or shorten a field with `map`."),
    "RowVanished": Explanation("A row was deleted after it had been listed", "Start a new run."),
    "SimulatedFailure": Explanation("`simulate_failures` chose the record to fail", "Remove the transform to deliver all records."),
    "SlotMissing": Explanation("The model left this document out of its answer, even when asked about it alone", "Lower `batch_size`, or use another model; then `dlq replay`."),
    "SqlError": Explanation("A value does not fit the query of `sql`", "Declare `columns`, or use try_cast in the query."),
    "Stalled": Explanation("Nothing succeeded at the node until its retries were exhausted, and `on_stall` is `dead_letter`", "The message has the last error. Fix its cause, then `dlq replay`."),
    "TooManyFields": Explanation("The table would have more than 500 columns", "Put objects whose field names are data into one field, or drop them before the sink."),
    "UnknownField": Explanation("The table has no column for a field", "Add the column, set `evolve: true`, or drop the field with `map`."),
    "UnsupportedDocument": Explanation("No reader knows this kind of document", "Convert it, or exclude it by pattern."),
    "ValidationError": Explanation("The ingest service's model does not accept the record", "The message names the field. Fix it with `map`, or patch the dead letter."),
    "ValueRefused": Explanation("The database rejects a value of the row", "The message names the column. Patch the dead letter, or cast the field with `map`."),
    "WrongHeader": Explanation("The first row of a CSV file is not the expected header", "Set `header: false` and `columns`, or another `format`, or exclude the file by pattern."),
    "WrongType": Explanation("A value does not fit the type of its column", "The message names the field. Cast it with `map`, or declare `columns`; then `dlq replay`."),
    "WrongWidth": Explanation("A row has more or fewer fields than the header", "Look for the `delimiter` inside of a field without quotes, and fix the file; or set `skip_lines` if the header is not on the first line."),
}  # fmt: skip

SECTIONS: Mapping[str, Mapping[str, Explanation]] = {
    "exit codes": EXIT_CODES,
    "errors": ERRORS,
    "types of dead letters": DEAD_LETTERS,
}
ALL: Mapping[str, Explanation] = {**EXIT_CODES, **ERRORS, **DEAD_LETTERS}
