# Tasks of development: `just` lists them. They use the environment in .venv; see CONTRIBUTING.md.

bin := ".venv/bin"

# list the tasks
default:
    @just --list --unsorted

# create the environment and install everything that development needs
install:
    python3 -m venv --upgrade-deps .venv
    {{bin}}/pip install -q -c constraints.txt -e '.[dev]'

# run pipelines, e.g. `just run pipelines.yaml --only blobs`
run *arguments:
    {{bin}}/python -m engine run {{arguments}}

# run the quick unit tests
unit *arguments:
    {{bin}}/python -m pytest -q tests/unit {{arguments}}

# run the tests that README's command runs, or the given ones
test *arguments:
    {{bin}}/python -m pytest {{arguments}}

# run what .ci/run adds to README's command
slow *arguments:
    {{bin}}/python -m pytest -n 3 --dist worksteal -m "slow and not series" {{arguments}}

# run what .ci/nightly adds to .ci/run: whole series, and properties with all their examples
series *arguments:
    {{bin}}/python -m pytest -n 3 --dist worksteal -m "series or hypothesis" --hypothesis-profile=thorough {{arguments}}

# show which lines tests run in their own process, e.g. `just coverage tests/unit/flow`
coverage *arguments="tests/unit tests/contract":
    {{bin}}/python -m pytest -q -n 3 --dist worksteal --cov --cov-report=term {{arguments}}

# lint, format, types and layers, as in .ci/run
check:
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy
    {{bin}}/lint-imports

# fix formatting and simple lint errors
fix:
    {{bin}}/ruff check --fix .
    {{bin}}/ruff format .

# everything that must pass before a change is merged
ci:
    .ci/run

# everything, as every night
nightly:
    .ci/nightly

# measure, e.g. `just bench run kernel --quick`
bench *arguments="list":
    {{bin}}/python -m benchmarks {{arguments}}

# start the ingest service on 127.0.0.1:4200
serve *arguments:
    {{bin}}/python -m engine serve {{arguments}}

# build the documentation into build/site, and check its links
docs:
    {{bin}}/sphinx-build -W -q docs build/site

# build the wheel into dist/
build:
    {{bin}}/pip wheel -q --no-deps -w dist .
