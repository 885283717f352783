"""Decide which queries can be interrupted in time: short ones without a step that makes much out of little.

DuckDB processes about 2,000 rows at a time and can be interrupted between such steps. Its own limits do not
cover texts and lists created by functions. So a query with only the functions below grows slowly enough to be
watched; any other may take gigabytes in a single step, like `repeat('x', 1000000000)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_HARMLESS: Final = """
+ - * / // % ** ^ & | << >> ~ @ ~~ !~~ ~~* !~~* ~~~ <-> ->> = != < > <= >= abs ceil ceiling floor round
trunc sign sqrt cbrt exp ln log log2 log10 pow power mod divide multiply add subtract fdiv greatest
least random pi isnan isinf isfinite even factorial gcd lcm sin cos tan radians degrees hash md5 sha1
sha256 xor count count_star count_if countif sum avg mean min max first last any_value arbitrary arg_min
arg_max argmin argmax min_by max_by median mode quantile quantile_cont quantile_disc
approx_count_distinct approx_quantile stddev stddev_pop stddev_samp variance var_pop var_samp skewness
kurtosis entropy corr covar_pop covar_samp regr_slope regr_intercept regr_r2 bool_and bool_or bit_and
bit_or bit_xor product sumkahan fsum kahan_sum favg row_number rank dense_rank percent_rank cume_dist
ntile lag lead first_value last_value nth_value length len strlen char_length character_length
array_length octet_length bit_length lower lcase upper ucase trim ltrim rtrim left right left_grapheme
right_grapheme substr substring substring_grapheme strpos instr position contains starts_with ends_with
prefix suffix reverse ascii ord unicode chr like_escape ilike_escape not_like_escape not_ilike_escape
regexp_matches regexp_full_match regexp_extract levenshtein editdist3 damerau_levenshtein jaccard
jaro_similarity jaro_winkler_similarity split_part nullif if typeof date_part datepart date_trunc
datetrunc date_diff datediff date_sub datesub date_add age year month day dayofmonth dayofweek dayofyear
weekday isodow week weekofyear yearweek quarter hour minute second millisecond microsecond decade
century millennium epoch epoch_ms epoch_us epoch_ns era dayname monthname last_day make_date make_time
make_timestamp make_timestamptz to_timestamp strftime strptime try_strptime now today current_date
get_current_timestamp timezone timezone_hour timezone_minute time_bucket to_years to_months to_weeks
to_days to_hours to_minutes to_seconds to_milliseconds to_microseconds json_extract json_extract_string
json_extract_path json_extract_path_text json_type json_valid json_array_length json_exists
json_contains json_value array_extract list_extract list_element struct_extract map_extract element_at
list_contains array_contains list_has list_position list_indexof cardinality list_min list_max list_sum
list_avg list_count unnest
"""

_PLAIN: Final = frozenset(_HARMLESS.split())
"""Functions whose results are small, or about as large as their arguments."""

_PACKING: Final = frozenset(("||", "concat", "concat_ws", "list_value", "struct_pack", "row"))
"""Functions whose results are as long as all arguments together. Nested, each may double its input."""

_MAX_PACKING: Final = 4

_MAX_NODES: Final = 1_500
_MAX_TABLES: Final = 32
_MAX_GROUPINGS: Final = 16
"""Limits of a query planned in this process, since planning cannot be interrupted. 3,000 conditions take
gigabytes, and a WITH part is planned again wherever it is named."""

_SMALL_TABLES: Final = frozenset(
    (
        *("duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_types", "duckdb_views"),
        *("generate_series", "pragma_table_info", "range", "unnest"),
    )
)
"""Table functions with small rows."""

TABLE_FUNCTIONS: Final = _SMALL_TABLES | {"json_each", "json_tree", "repeat", "summary", "unnest_rewrite"}
"""Functions that read only their arguments or the catalogue; others could checkpoint or log."""


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings of a query's serialised form."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _is_long(tree: Any) -> bool:
    nodes = tables = 0
    for node in nodes_of(tree):
        nodes += 1
        tables += _is_table(node)
        if len(node.get("group_sets") or ()) > _MAX_GROUPINGS:
            return True
    return nodes > _MAX_NODES or tables > _MAX_TABLES or _planned_tables(tree) > _MAX_TABLES


def _planned_tables(tree: Any) -> int:
    """Count the tables of a query; those of a WITH part count for each use of it."""
    parts: dict[str, list[Any]] = {}
    for node in nodes_of(tree):
        for one in (node.get("cte_map") or {}).get("map", ()):
            parts.setdefault(one["key"].lower(), []).append(one["value"])
    numbers: dict[str, int] = {}

    def within(part: Any) -> int:
        return sum(named(one["table_name"].lower()) for one in nodes_of(part) if _is_table(one))

    def named(name: str) -> int:
        if name not in numbers:
            numbers[name] = 1  # a recursive part refers to its rows so far
            numbers[name] = max(1, sum(map(within, parts.get(name, ()))))
        return numbers[name]

    return within(tree)


def _is_table(node: dict[str, Any]) -> bool:
    return node.get("type") == "BASE_TABLE"


def is_watchable(tree: Any) -> bool:
    """Return whether no single step of the query (as of `json_serialize_sql`) can create huge values."""
    packing = 0
    if _is_long(tree):
        return False
    of_tables = {
        id(node["function"])
        for node in nodes_of(tree)
        if node.get("type") == "TABLE_FUNCTION" and isinstance(node.get("function"), dict)
    }
    for node in nodes_of(tree):
        if str(node.get("type_name", "")).lower() == "array":
            return False  # of a fixed length, which every row takes
        if "function_name" not in node:
            continue
        name = str(node["function_name"]).lower()
        if id(node) in of_tables:
            if name not in _SMALL_TABLES:
                return False
        elif name in _PACKING:
            packing += 1
        elif name not in _PLAIN:
            return False
    return not tree.get("error") and packing <= _MAX_PACKING
