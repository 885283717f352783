"""Every possible problem of a file, with the exact message."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load_file
from engine.errors import ConfigError

TOP_KEYS = ("version", "connections", "pipelines", "aliases", "warehouse")
PIPELINE = "version: 1\npipelines:\n  p:\n    nodes:\n"
WEB = 'version: 1\nconnections: {web: {url: "http://x"}}\npipelines:\n  p:\n    nodes:\n'


def nodes(*lines: str, head: str = PIPELINE) -> str:
    """A pipeline `p`; the first line of nodes is line 5 of the file (6 with connections)."""
    return head + "".join(f"      {line}\n" for line in lines)


CASES = {
    "tab": (
        "version: 1\npipelines:\n\tp: 1\n",
        ["f.yaml:3:1: tabs are not allowed for indentation; use spaces"],
    ),
    "tab after spaces": (
        "version: 1\npipelines:\n  p: 1\n \tq: 1\n",
        ["f.yaml:4:2: tabs are not allowed for indentation; use spaces"],
    ),
    "syntax": (
        "version: 1\npipelines: {a: 1\n",
        [
            (
                "f.yaml:2:17: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}' "
                "(`{` in line 2 is not closed before it; a value with brackets, braces or a comma needs "
                "quotes)"
            )
        ],
    ),
    "a value is missing": (
        "version: 1\npipelines: {\n  ]\n",
        ["f.yaml:3:3: not valid YAML: while parsing a flow node, did not find expected node content"],
    ),
    "indentation": (
        "version: 1\npipelines:\n  p:\n    a: 1\n   b: 1\n",
        [
            (
                "f.yaml:5:4: not valid YAML: while parsing a block mapping, did not find expected key "
                "(indent it like its siblings; their block starts in line 3)"
            )
        ],
    ),
    "`pipelines` misspelt": (
        "version: 1\npipeline: {p: {}}\n",
        ["f.yaml:2:1: pipeline: unknown key `pipeline`, did you mean `pipelines`?"],
    ),
    "interpolation inside braces without quotes": (
        "a: {b: ${X}}\n",
        [
            (
                "f.yaml:1:9: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}' "
                '(inside { } and [ ] put quotes around it: "${NAME}")'
            )
        ],
    ),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        ["f.yaml:2:1: not valid YAML: expected a single document in the stream, but found another document"],
    ),
    "control character": ("a: b\nc: \x07\n", ["f.yaml:2:4: the character U+0007 is not allowed in YAML"]),
    "empty": ("# nothing\n", ["f.yaml: the file is empty (start it with `version: 1`)"]),
    "only null": ("~\n", ["f.yaml: the file is empty (start it with `version: 1`)"]),
    "not a mapping": (
        "- a\n",
        ["f.yaml:1:1: expected a mapping with `pipelines`, got a list"],
    ),
    "not UTF-8": (b"version: 1\na: \xff\n", ["f.yaml:2:4: the file is not UTF-8 text (save it as UTF-8)"]),
    "too large": (b"#" * ((1 << 20) + 1), ["f.yaml: the file is larger than 1 MiB"]),
    "too deep": ("a: " + "[" * 70 + "]" * 70, ["f.yaml:1:67: nested deeper than 64 levels"]),
    "alias of itself": ("a: &a [*a]\n", ["f.yaml:1:4: an alias (`*name`) contains itself"]),
    "no pipelines": (
        "version: 1\n",
        ["f.yaml:1:1: no pipelines defined (write pipelines: {name: {nodes: {…}}})"],
    ),
    "empty pipelines": (
        "version: 1\npipelines: {}\n",
        ["f.yaml:2:1: pipelines: no pipelines defined (write pipelines: {name: {nodes: {…}}})"],
    ),
    "version not supported": (
        nodes("a: {source: numbers}", "b: {sink: keep}").replace("version: 1", "version: 2"),
        ["f.yaml:1:10: version: version 2 is not supported, this engine reads version 1"],
    ),
    "duplicate keys": (
        nodes("a: {source: numbers, source: numbers}", "b: {sink: keep}", "a: {sink: keep}"),
        [
            "f.yaml:5:28: pipelines.p.nodes.a.source: duplicate key `source`, first given in line 5",
            "f.yaml:7:7: pipelines.p.nodes.a: duplicate key `a`, first given in line 5",
        ],
    ),
    "tag, date and key that are not what they seem": (
        "a: !foo x\nb: 2024-13-45\non: 1\n",
        [
            "f.yaml:1:4: a: the tag `!foo` is not supported",
            (
                "f.yaml:2:4: b: `2024-13-45` looks like a date or a number but is not a valid one "
                '(quote it if it is text: "2024-13-45")'
            ),
            'f.yaml:3:1: YAML does not read the key `on` as text (quote it: "on")',
        ],
    ),
    "unknown keys at every level": (
        nodes(
            "a: {source: numbers, with: {pagesize: 1}}",
            "b: {sink: keep, retries: 1, batch: {recrods: 1}}",
        )
        + "foo: 1\n",
        [
            (
                "f.yaml:5:35: pipelines.p.nodes.a.with.pagesize: unknown key `pagesize`, "
                "did you mean `page_size`?"
            ),
            (
                "f.yaml:6:23: pipelines.p.nodes.b.retries: unknown key `retries`, did you mean `retry`? "
                "(parameters of the component go under `with:`)"
            ),
            "f.yaml:6:43: pipelines.p.nodes.b.batch.recrods: unknown key `recrods`, did you mean `records`?",
            f"f.yaml:7:1: foo: unknown key `foo`, known: {', '.join(f'`{key}`' for key in TOP_KEYS)}",
        ],
    ),
    "cycle": (
        nodes(
            "a: {source: numbers}",
            "b: {transform: double, input: [a, d]}",
            "c: {transform: double}",
            "d: {transform: double}",
            "e: {sink: keep}",
        ),
        ["f.yaml:6:38: pipelines.p.nodes.b.input.0: the nodes form a cycle: `b` → `c` → `d` → `b`"],
    ),
    "node that is its own input": (
        nodes("a: {source: numbers}", "b: {transform: double, input: b}", "c: {sink: keep}"),
        ["f.yaml:6:37: pipelines.p.nodes.b.input: the nodes form a cycle: `b` → `b`"],
    ),
    "missing input": (
        nodes("files: {source: numbers}", "b: {sink: keep, input: filse}", "c: {sink: keep, input: zzz}"),
        [
            "f.yaml:6:30: pipelines.p.nodes.b.input: unknown input `filse`, did you mean `files`?",
            "f.yaml:7:30: pipelines.p.nodes.c.input: unknown input `zzz`, known: `files`, `b`, `c`",
        ],
    ),
    "first node without input": (
        nodes("a: {transform: double}", "b: {sink: keep}"),
        [
            (
                "f.yaml:5:7: pipelines.p.nodes.a: the transform `a` comes first, so it has no input (put "
                "a source above it, or name its input: input: other_node)"
            )
        ],
    ),
    "input of a source, input twice": (
        nodes("a: {source: numbers}", "b: {source: numbers, input: a}", "c: {sink: keep, input: [a, b, a]}"),
        [
            "f.yaml:6:28: pipelines.p.nodes.b.input: a source takes no `input`",
            "f.yaml:7:37: pipelines.p.nodes.c.input.2: `a` is named twice",
        ],
    ),
    "nodes that no source reaches": (
        nodes(
            "a: {source: numbers}",
            "b: {transform: double, input: []}",
            "c: {sink: keep}",
            "d: {sink: keep, input: a}",
        ),
        [
            (
                "f.yaml:6:7: pipelines.p.nodes.b: no source reaches the transform `b` "
                "(its `input` names no node)"
            ),
            "f.yaml:7:7: pipelines.p.nodes.c: no source reaches the sink `c`",
        ],
    ),
    "output without a reader": (
        nodes("a: {source: numbers}", "b: {source: numbers}", "c: {sink: keep}", "d: {transform: double}"),
        [
            (
                "f.yaml:5:7: pipelines.p.nodes.a: no node consumes the output of the source `a` (add a "
                "sink after it, or name it in one: input: a)"
            ),
            (
                "f.yaml:8:7: pipelines.p.nodes.d: no node consumes the output of the transform `d` (add "
                "a sink after it, or name it in one: input: d)"
            ),
        ],
    ),
    "wrong kind of component": (
        nodes("a: {source: keep}", "b: {sink: keep}"),
        ["f.yaml:5:19: pipelines.p.nodes.a.source: `keep` is a sink, not a source (write sink: keep)"],
    ),
    "unknown components": (
        nodes("a: {source: number}", "b: {sink: xyz}", "c: {sink: 'no.such.module:Thing', input: a}"),
        [
            "f.yaml:5:19: pipelines.p.nodes.a.source: unknown source `number`, did you mean `numbers`?",
            "f.yaml:6:17: pipelines.p.nodes.b.sink: unknown sink `xyz`, known: `keep`, `post`",
            (
                "f.yaml:7:17: pipelines.p.nodes.c.sink: cannot import 'no.such.module:Thing': No module "
                "named 'no'; looked among the installed packages, in the current folder and next to the file"
            ),
        ],
    ),
    "node without kind, with two, that is none": (
        nodes("a: {with: {}}", "b: {source: numbers, sink: keep}", "c: 5", "d: {filter: }"),
        [
            "f.yaml:5:7: pipelines.p.nodes.a: one of `source`, `transform`, `sink` is required",
            "f.yaml:6:7: pipelines.p.nodes.b: a node can have only one kind, not `source` and `sink`",
            "f.yaml:7:10: pipelines.p.nodes.c: expected a mapping such as {source: blob}, got 5",
            "f.yaml:8:7: pipelines.p.nodes.d: `filter` has no value",
        ],
    ),
    "wrong types": (
        nodes(
            "a: {source: numbers, with: {records: many, flag: [1]}}",
            "b: {sink: post, with: {model: 5, even: 3, key: 12345}, concurrency: x}",
            "c: {sink: keep, batch: {bytes: 5 parsecs, linger: -1}, input: 5, on_stall: give_up}",
            head=WEB,
        ),
        [
            "f.yaml:6:44: pipelines.p.nodes.a.with.records: expected a valid integer, got 'many'",
            "f.yaml:6:56: pipelines.p.nodes.a.with.flag: expected a valid boolean, got a list",
            (
                "f.yaml:7:37: pipelines.p.nodes.b.with.model: expected a valid string, got 5 "
                "(put quotes around it)"
            ),
            "f.yaml:7:46: pipelines.p.nodes.b.with.even: 3 is odd",
            "f.yaml:7:54: pipelines.p.nodes.b.with.key: expected a valid string (put quotes around it)",
            "f.yaml:7:75: pipelines.p.nodes.b.concurrency: expected a valid integer, got 'x'",
            (
                "f.yaml:8:38: pipelines.p.nodes.c.batch.bytes: expected a size such as 512 KB, 64 MB "
                "or 1 GB, got '5 parsecs'"
            ),
            (
                "f.yaml:8:57: pipelines.p.nodes.c.batch.linger: expected a duration such as "
                "500ms, 30s, 10m, 1h30m or 2d, got -1"
            ),
            "f.yaml:8:69: pipelines.p.nodes.c.input: expected a name or a list of names, got 5",
            "f.yaml:8:82: pipelines.p.nodes.c.on_stall: expected 'wait' or 'dead_letter', got 'give_up'",
        ],
    ),
    "required parameter of a component": (
        nodes("a: {source: numbers}", "b: {sink: post}", head=WEB),
        ["f.yaml:7:7: pipelines.p.nodes.b.with.model: `model` is required"],
    ),
    "unset variables": (
        nodes(
            'a: {source: numbers, with: {records: "${NOPE}"}}',
            'b: {sink: post, with: {model: "${NOPE:?set it to a model}", even: "${params.x}"}}',
            head=WEB,
        ),
        [
            (
                "f.yaml:6:44: pipelines.p.nodes.a.with.records: environment variable `NOPE` is not set "
                "(set it, put it into .env, or write ${NOPE:-default})"
            ),
            (
                "f.yaml:7:37: pipelines.p.nodes.b.with.model: environment variable `NOPE` is not set: "
                "set it to a model"
            ),
            "f.yaml:7:73: pipelines.p.nodes.b.with.even: unknown parameter `x`",
        ],
    ),
    "branches that meet with the same keys": (
        nodes(
            "a: {source: numbers}",
            "b: {transform: double}",
            "c: {transform: double, input: a}",
            "d: {sink: keep, input: [b, c]}",
        ),
        [
            (
                "f.yaml:8:7: pipelines.p.nodes.d: the records of `a` reach `d` with the same keys twice, "
                "through `b`, `c` (give `c` or another node of that branch a `key_suffix`)"
            )
        ],
    ),
    "pipelines to run next, schedule, dead letters": (
        (
            "version: 1\npipelines:\n  p:\n    on_complete: [q, p]\n    on_cancel: pp\n"
            "    schedule: '61 * * * *'\n"
            "    dead_letters: {max: 200%, forward: {sink: kep}}\n"
            "    nodes:\n      a: {source: numbers}\n      b: {sink: keep}\n"
        ),
        [
            "f.yaml:4:19: pipelines.p.on_complete.0: unknown pipeline `q`, known: `p`",
            (
                "f.yaml:4:22: pipelines.p.on_complete.1: `p` cannot follow itself (use `schedule` to run "
                "it again)"
            ),
            "f.yaml:5:16: pipelines.p.on_cancel: unknown pipeline `pp`, did you mean `p`?",
            "f.yaml:6:15: pipelines.p.schedule: the minute `61` is outside 0-59",
            (
                "f.yaml:7:25: pipelines.p.dead_letters.max: expected a number of records such as 100 "
                "or a share such as 20%, got '200%'"
            ),
            "f.yaml:7:47: pipelines.p.dead_letters.forward.sink: unknown sink `kep`, did you mean `keep`?",
        ],
    ),
    "pipelines without nodes, that are none, with odd names": (
        "version: 1\npipelines:\n  p: {nodes: {}}\n  q: 5\n  r s: {nodes: {}}\n",
        [
            ("f.yaml:3:3: pipelines.p: no nodes defined (start with a source: nodes: {read: {source: …}})"),
            "f.yaml:4:6: pipelines.q: expected a mapping with `nodes`, got 5",
            (
                "f.yaml:5:3: pipelines.r s: a pipeline cannot be called `r s` (use letters, digits, _ "
                "and -, starting with a letter)"
            ),
            ("f.yaml:5:3: pipelines.r s: no nodes defined (start with a source: nodes: {read: {source: …}})"),
        ],
    ),
    "connections": (
        (
            "version: 1\nconnections: {web: {url: x}, lame: {token: x}, odd: 5}\n"
            "pipelines:\n  p:\n    nodes:\n"
            "      a: {source: numbers, with: {connection: web}}\n"
            "      b: {sink: post, with: {model: a, connection: wep}}\n"
            "      c: {sink: post, input: a, with: {model: a, connection: lame}}\n"
        ),
        [
            "f.yaml:2:30: connections.lame: connection `lame` lacks `url` (needed by the sink `post`)",
            "f.yaml:2:53: connections.odd: expected fields or the word `sandbox`, got 5",
            "f.yaml:6:47: pipelines.p.nodes.a.with.connection: the source `numbers` takes no connection",
            "f.yaml:7:52: pipelines.p.nodes.b.with.connection: unknown connection `wep`, did you mean `web`?",
        ],
    ),
    "several connections fit": (
        nodes(
            "a: {source: numbers}",
            "b: {sink: post, with: {model: a}}",
            head=WEB.replace("}}", "}, web2: {url: y}}"),
        ),
        [
            (
                "f.yaml:7:17: pipelines.p.nodes.b.sink: `post` could use any of the connections "
                "`web`, `web2` (name one: with: {connection: web})"
            )
        ],
    ),
    "no connection fits": (
        nodes(
            "a: {source: numbers}",
            "b: {sink: post, with: {model: a}}",
            "c: {sink: post, input: a, with: {model: a, connection: web}}",
            head=WEB.replace("url", "dsn"),
        ),
        [
            "f.yaml:2:15: connections.web: connection `web` lacks `url` (needed by the sink `post`)",
            "f.yaml:2:21: connections.web.dsn: unknown key `dsn`, did you mean `url`?",
            (
                "f.yaml:7:17: pipelines.p.nodes.b.sink: `post` needs a connection, but no entry fits "
                "(add one under `connections:` with fields of `url`, `token`, `region`; known: `web`)"
            ),
        ],
    ),
    "parameters": (
        (
            "version: 1\npipelines:\n  p:\n    params:\n"
            "      n: {type: int, default: five}\n"
            "      m: {type: intt}\n"
            "      r: {required: true}\n"
            "      rr: {required: true, default: 1}\n"
            "      c: {default: red, choices: [green, blue]}\n"
            "      k: {defualt: 1}\n"
            "      bad name: 1\n"
            '      s: "${params.n}"\n'
            '    nodes:\n      a: {source: numbers, with: {records: "${params.n}"}}\n      b: {sink: keep}\n'
        ),
        [
            "f.yaml:5:31: pipelines.p.params.n.default: expected an integer, got 'five'",
            "f.yaml:6:11: pipelines.p.params.m.type: unknown type `intt`, did you mean `int`?",
            "f.yaml:7:7: pipelines.p.params.r: parameter `r` of `p` is required (give --param p.r=…)",
            "f.yaml:8:12: pipelines.p.params.rr.required: a required parameter cannot have a `default`",
            "f.yaml:9:20: pipelines.p.params.c.default: expected one of `green`, `blue`, got 'red'",
            "f.yaml:10:11: pipelines.p.params.k.defualt: unknown key `defualt`, did you mean `default`?",
            (
                "f.yaml:11:7: pipelines.p.params.bad name: a parameter cannot be called `bad name` (use "
                "letters, digits, _ and -, starting with a letter)"
            ),
            (
                "f.yaml:12:10: pipelines.p.params.s: `${params.n}` cannot be used here (parameters are "
                "available only inside a pipeline's nodes)"
            ),
        ],
    ),
    "interpolation that is not understood": (
        nodes(
            'a: {source: numbers, with: {records: "${A-5}"}}',
            'b: {sink: post, with: {model: "${open", even: "${params.x:-5}", key: "${}"}}',
            'c: {sink: post, with: {model: "${M:m}"}, input: a}',
            head=WEB,
        ),
        [
            (
                "f.yaml:6:44: pipelines.p.nodes.a.with.records: cannot parse `${A-5}` (did you mean "
                "`${A:-5}`?)"
            ),
            (
                "f.yaml:7:37: pipelines.p.nodes.b.with.model: `${` is not closed by `}` "
                "(write $${ for a literal ${)"
            ),
            (
                "f.yaml:7:53: pipelines.p.nodes.b.with.even: cannot parse `${params.x:-5}` (set the "
                "default of a parameter under `params:`)"
            ),
            (
                "f.yaml:7:76: pipelines.p.nodes.b.with.key: cannot parse `${}` (write ${NAME}, "
                "${NAME:-default}, ${NAME:?message}, ${params.name} or ${file:/path})"
            ),
            "f.yaml:8:37: pipelines.p.nodes.c.with.model: cannot parse `${M:m}` (did you mean `${M:-m}`?)",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str, problems_of) -> None:
    text, expected = CASES[name]
    assert problems_of(text) == expected


def test_a_sound_file_has_no_problems(problems_of) -> None:
    assert problems_of(nodes("a: {source: numbers}", "b: {sink: post, with: {model: x}}", head=WEB)) == []


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path / "pipelines.yml", environ={})
    assert str(caught.value) == (
        f"{tmp_path}/pipelines.yml: no such file (did you mean {tmp_path}/pipelines.yaml?)"
    )


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the file: Is a directory"):
        load_file(tmp_path, environ={})


def test_aliases_of_aliases_do_not_explode(problems_of) -> None:
    levels = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert problems_of("\n".join(levels)) == [
        "f.yaml:1:1: more than 100,000 values once aliases are followed"
    ]


def test_columns_count_characters_not_bytes(problems_of) -> None:
    text = nodes("größe: {source: numbers}", "b: {sink: kéep}").replace("größe", "ä")
    assert problems_of(text)[0].startswith("f.yaml:5:7: pipelines.p.nodes.ä: a node cannot be called `ä`")
    assert problems_of(nodes('a: {source: "äöü", wiht: 1}', "b: {sink: keep}"))[1].startswith("f.yaml:5:26:")


def test_problems_of_several_pipelines_come_together_in_file_order(problems_of) -> None:
    text = (
        "version: 1\npipelines:\n"
        "  p: {nodes: {a: {source: numbrs}, b: {sink: keep}}}\n"
        "  q: {memroy: 5 MB, nodes: {a: {source: numbers}, b: {sink: kepp}}}\n"
    )
    assert [problem.split(": ")[1] for problem in problems_of(text)] == [
        "pipelines.p.nodes.a.source",
        "pipelines.q.memroy",
        "pipelines.q.nodes.b.sink",
    ]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("{name}: 1\npipelines: {{}}\n", id="key"),
        pytest.param("pipelines:\n  {name}:\n    nodes: {{a: {{source: generate}}}}\n", id="pipeline"),
        pytest.param("pipelines:\n  p:\n    nodes: {{a: {{source: {name}}}}}\n", id="component"),
        pytest.param("pipelines:\n  p:\n    nodes: {{a: {{source: '${{{name}}}'}}}}\n", id="variable"),
    ],
)
def test_very_long_names_are_cut_in_messages(problems_of, file: str) -> None:
    text = "\n".join(map(str, problems_of(file.format(name="a" * 900))))
    assert "aaaa…" in text
    assert "a" * 61 not in text
