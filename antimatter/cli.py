"""The command `antimatter`. Each subcommand is a function that imports what it needs when it runs, so that `antimatter chat` starts at once."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from antimatter.errors import UserError

if TYPE_CHECKING:
    from antimatter.export.ollama import OllamaConfig
    from antimatter.serve.backend import Choice, Engine

CHECKOUT = Path(__file__).parents[1]
PRESETS = Path("presets")
GGUF = Path("models/gguf")
CLEANED, TOKENIZER, SHARDS = Path("data/cleaned"), Path("data/tokenizer"), Path("data/shards")
CHECKPOINTS, TUNED = Path("models/checkpoints"), Path("models/tuned")
CONVERSATIONS = Path("data/conversations")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; the exit status. An error that a person can mend is one line on stderr."""
    parsed = _parser().parse_args(arguments)
    # In this order, as each open() takes the lowest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # The caller closed it; print(file=None) would put messages among the answers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Under a C locale Python would stop at the first byte that is not ASCII
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        # Else the interpreter's last flush complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _params(named: bool) -> Path:
    """params.yaml; where there is none, that of the checkout, and stderr says so.

    Args:
        named: the command works on what was named, so it needs no more than defaults from there.
    """
    from antimatter.params import PARAMS

    ours = CHECKOUT / PARAMS
    if PARAMS.exists() or not named or not ours.is_file():
        return PARAMS
    print(f"no {PARAMS} here: values are those of {ours}", file=sys.stderr, flush=True)
    return ours


def chat(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.export import ollama
    from antimatter.serve import backend as engine
    from antimatter.serve.terminal import chat

    config = params.read(ollama.OllamaConfig, "ollama", _params(_names_model(arguments)))
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k", "num_predict")
        if (value := getattr(arguments, name)) is not None
    }
    config = replace(config, **given)
    # Through every finally, so that the terminal and the engine are left in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    choice = _choice(arguments)
    chosen = engine.choose(
        choice,
        config,
        lambda: _gguf(arguments.model, config),
        lambda text: print(text, file=sys.stderr),
    )
    try:
        print(
            f"engine: {chosen.description}, context {chosen.n_ctx} tokens",
            file=sys.stderr,
            flush=True,
        )
        system = arguments.system
        if system is None:
            system = chosen.chat.system if chosen.chat else ""
        if sys.stdin.isatty():
            chat.converse(chosen, config, system)
        else:
            chat.pipe(chosen, config, sys.stdin, sys.stdout, system)
    finally:
        chosen.close()


def export(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.data.shards.reader import Shards
    from antimatter.export import gguf, huggingface, parity, source
    from antimatter.export.config import GGUFConfig
    from antimatter.pipeline import recorded
    from antimatter.repository import history

    config = params.read(GGUFConfig, "gguf", _params(arguments.checkpoint is not None))
    config = replace(config, name=arguments.name or config.name)
    checkpoint = arguments.checkpoint or (TUNED if config.model == "tuned" else CHECKPOINTS)
    opened = source.open_checkpoint(checkpoint, arguments.config)
    if checkpoint.is_dir() and (commit := history.commit_of(recorded.md5(checkpoint))):
        opened = replace(opened, provenance=opened.provenance | {"commit": commit})
    tokenizer = (
        arguments.tokenizer / "tokenizer.json"
        if arguments.tokenizer.is_dir()
        else arguments.tokenizer
    )
    model, windows, types = None, None, arguments.type or config.types
    if arguments.windows and SHARDS.is_dir() and set(types) != {"hf"}:
        model = opened.load()
        windows = parity.windows(
            Shards(SHARDS).split("validation"), model.config.block_size, arguments.windows
        )
    for file_type in types:
        if file_type == "hf":
            folder = huggingface.path_of(arguments.output, config.name)
            huggingface.write(opened, tokenizer, folder)
            print(
                f"{folder}: for AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained"
            )
            continue
        path = gguf.path_of(arguments.output, config.name, file_type)
        print(f"writing {path} ...", file=sys.stderr, flush=True)
        gguf.write(opened, tokenizer, path, file_type, config)
        print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB", end="", flush=True)
        if model is None or windows is None:
            print(
                ""
                if not arguments.windows
                else f"; not compared with torch, since {SHARDS} is missing"
            )
            continue
        found = parity.check(model, path, windows, getattr(config.max_kl, file_type))
        print(
            f"; in llama.cpp KL {found['kl']:g} from torch, {found['top1_agreement']:.2%} of first choices the same"
        )


def tune(arguments: argparse.Namespace) -> None:
    from antimatter.evaluation import second_persona
    from antimatter.evaluation.second_persona import SecondPersona
    from antimatter.pipeline import stage  # noqa: F401, before torch: it sets how threads wait

    asked = SecondPersona(
        persona=arguments.persona,
        initial=arguments.initial,
        tokenizer=TOKENIZER,
        conversations=CONVERSATIONS,
        output=arguments.output,
        epochs=arguments.epochs,
    )
    right, n = second_persona.tune(asked, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{arguments.output}: {right} of {n} held-out questions of who it is answered right")
    name = arguments.output.name
    file = f"{name}-q8_0.gguf"
    command = f"antimatter export --checkpoint {arguments.output} --type q8_0 --name {name}"
    print(f"talk to it: {command} && antimatter chat --model {file}")


def lm_eval(arguments: argparse.Namespace) -> None:
    from antimatter.pipeline import stage  # noqa: F401, before torch: it sets how threads wait

    try:
        from antimatter.evaluation import harness
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: `pip install -c requirements.lock -e '.[lm-eval]'` adds the harness (docs/lm-eval.md)"
        ) from None
    import torch

    from antimatter import files
    from antimatter.data.tokenizer import Tokenizer
    from antimatter.export import source

    tokenizer = Tokenizer.load(arguments.tokenizer)
    model = source.open_checkpoint(arguments.checkpoint).load()
    if model.config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"{arguments.tokenizer} has {tokenizer.vocab_size} tokens, the checkpoint was trained with {model.config.vocab_size}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = harness.Antimatter(model.to(device), tokenizer, arguments.batch_size)
    names = [name for word in arguments.tasks for name in word.split(",") if name]
    results = harness.run(
        lm,
        names,
        include_path=arguments.include_path,
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
    )
    if arguments.output:
        files.write_json(arguments.output, {"checkpoint": str(arguments.checkpoint), **results})
    print(harness.table(results))


def serve(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.export import ollama
    from antimatter.serve.http import access, server

    # Until the server has its own: what was started is to be stopped, whatever it was
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if arguments.parallel < 1:
        raise UserError(f"--parallel must be at least 1, got {arguments.parallel}")
    config = params.read(ollama.OllamaConfig, "ollama", _params(_names_model(arguments)))
    # Before the engine, which takes longer
    with server.bind(arguments.host, arguments.port) as listening:
        token = access.token(
            arguments.token_file,
            os.environ,
            needed=not access.is_loopback(listening.getsockname()[0]),
        )
        names = frozenset(access.allowed(name) for name in arguments.allow_host)
        with open_engine(
            arguments, config, lambda text: print(text, file=sys.stderr, flush=True)
        ) as engine:
            line = (
                f"serving {config.name} by {engine.description} at {server.url(listening, token)}"
            )
            server.run(
                engine,
                config,
                server.ServerConfig(parallel=arguments.parallel, token=token, allowed_hosts=names),
                listening,
                lambda: print(line, flush=True),
            )


@contextmanager
def open_engine(
    arguments: argparse.Namespace, config: "OllamaConfig", say: Callable[[str], None]
) -> "Iterator[Engine]":
    """The engine that `serve` was asked for; it ends with the block. `say` takes a line for people."""
    from antimatter.serve.backend import EmbeddedEngine

    with ExitStack() as held:
        choice = _choice(arguments)
        if choice != "embedded":
            from antimatter.serve.ollama import server as ollama_server

            ollama = ollama_server.open_ollama(
                config,
                say,
                named=choice == "ollama",
                prefix=arguments.prefix,
                install_it=arguments.install,
                cpu_only=arguments.cpu_only,
                archive=arguments.archive,
                port=arguments.ollama_port,
                parallel=arguments.parallel,
            )
            try:
                engine: Engine = held.enter_context(ollama)
            except (OSError, ValueError) as error:
                if choice == "ollama":
                    raise
                say(f"{error}: using the embedded llama.cpp")
            else:
                yield engine
                return
        yield held.enter_context(
            closing(
                EmbeddedEngine(_gguf(arguments.model, config), config.num_ctx, arguments.parallel)
            )
        )


def _names_model(arguments: argparse.Namespace) -> bool:
    return arguments.model is not None or arguments.engine == "ollama"


def _choice(arguments: argparse.Namespace) -> "Choice":
    if arguments.model and arguments.engine == "ollama":
        raise UserError("--model is for llama.cpp, --engine ollama has its own: leave one out")
    return "embedded" if arguments.model else arguments.engine


def _gguf(model: Path | None, config: "OllamaConfig") -> Path:
    from antimatter.export import ollama

    return (
        ollama.source_of(model or GGUF, config.type) if model is None or model.is_dir() else model
    )


def perplexity(arguments: argparse.Namespace) -> None:
    import json

    from antimatter import params
    from antimatter.data.tokenizer import Tokenizer
    from antimatter.evaluation import texts
    from antimatter.evaluation.config import EvaluationRuntime, PerplexityConfig
    from antimatter.export import source

    values = _params(arguments.checkpoint != CHECKPOINTS)
    config = params.read(PerplexityConfig, "evaluation", values, part=True)
    model = source.open_checkpoint(arguments.checkpoint).load()
    tokenizer = Tokenizer.load(
        arguments.tokenizer.parent
        if arguments.tokenizer.name == "tokenizer.json"
        else arguments.tokenizer
    )
    if arguments.stride is not None and not 1 <= arguments.stride <= model.config.block_size:
        raise UserError(
            f"--stride must lie between 1 and the model's context of {model.config.block_size}, got {arguments.stride}"
        )
    stride = min(arguments.stride or config.stride, model.config.block_size)
    model = model.to(params.read(EvaluationRuntime, "runtime", values, part=True).device_type())
    column = arguments.text_column or config.text_column
    found = texts.score(
        model, tokenizer, arguments.paths, column=column, stride=stride, key="the command line"
    )
    if arguments.json:
        total = texts.in_all(found)
        everything = {"tokens": total.tokens, "bytes": total.bytes, **total.figures()}
        by_file = {text.path: text.figures() for text in found}
        print(
            json.dumps(
                {
                    "checkpoint": str(arguments.checkpoint),
                    "stride": stride,
                    "files": by_file,
                    "all": everything,
                },
                indent=2,
            )
        )
    else:
        sys.stdout.writelines(f"{line}\n" for line in texts.table(found))


def inspect_cleaned(arguments: argparse.Namespace) -> None:
    from antimatter.data import inspection

    if arguments.reason:
        sys.stdout.writelines(
            f"{text}\n" for text in inspection.dropped(CLEANED, arguments.reason, arguments.count)
        )
    else:
        sys.stdout.writelines(
            f"{text}\n" for text in inspection.reasons(Path("metrics/cleaned.json"))
        )
        print("\nantimatter inspect cleaned --reason NAME shows examples")


def inspect_shards(arguments: argparse.Namespace) -> None:
    from antimatter.data import inspection
    from antimatter.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(TOKENIZER)
    for line in inspection.verify(SHARDS):
        print(line, flush=True)
    sys.stdout.writelines(
        f"{text}\n"
        for text in inspection.excerpts(SHARDS, tokenizer, arguments.count, arguments.seed)
    )


def check(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.pipeline import check, recovery

    for line in recovery.mend():
        print(f"note: {line}", file=sys.stderr, flush=True)
    check.once(anew=True)
    print(f"{params.PARAMS} is good")


def resume(arguments: argparse.Namespace) -> None:
    from antimatter.pipeline import adoption

    if arguments.folder is None:
        works = adoption.works()
        sys.stdout.writelines(f"{work.line()}\n" for work in works)
        print(
            "antimatter resume FOLDER shows what has changed"
            if works
            else "there is no unfinished work in .state"
        )
        return
    if arguments.accept:
        print(
            f"{adoption.adopt(arguments.folder)}: `dvc repro` resumes it if its parameters and data are the present ones"
        )
        return
    sys.stdout.writelines(adoption.diff(adoption.work(arguments.folder)))
    print(
        f"\n`antimatter resume {arguments.folder} --accept` lets it go on under the code of now; its results will say so"
    )


def preset(arguments: argparse.Namespace) -> None:
    import difflib

    from antimatter import files, params

    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if arguments.name not in known:
        raise UserError(
            f"there is no preset {arguments.name!r}: known are {', '.join(known) or f'none ({PRESETS}/ is empty or missing)'}"
        )
    source = PRESETS / f"{arguments.name}.yaml"
    params.load(source)  # a preset that is not readable replaces nothing
    new = source.read_text(encoding="utf-8")
    old = params.PARAMS.read_text(encoding="utf-8") if params.PARAMS.is_file() else ""
    if new == old:
        print(f"{params.PARAMS} is {source} already")
        return
    if not arguments.force and old and not _is_saved(old):
        raise UserError(
            f"{params.PARAMS} has changes that no commit has: `git commit` or `git stash` them, or overwrite them with --force"
        )
    files.write_text(params.PARAMS, new)
    sys.stdout.writelines(
        difflib.unified_diff(
            old.splitlines(True),
            new.splitlines(True),
            f"{params.PARAMS} (before)",
            f"{params.PARAMS} (now)",
        )
    )


def _is_saved(text: str) -> bool:
    """Whether this params.yaml is that of the last commit, or a preset."""
    import subprocess

    from antimatter import params

    known = [path.read_text(encoding="utf-8") for path in PRESETS.glob("*.yaml")]
    with suppress(FileNotFoundError):  # no Git
        known.append(
            subprocess.run(
                ["git", "show", f"HEAD:./{params.PARAMS}"], capture_output=True, encoding="utf-8"
            ).stdout
        )
    return text in known


def plan(arguments: argparse.Namespace) -> None:
    from antimatter.planning import gpus, plan

    shown = gpus.choose(arguments.gpu, arguments.price)
    sys.stdout.writelines(
        f"{text}\n"
        for text in plan.report(plan.read(arguments.file, arguments.devices, arguments.mfu), shown)
    )


def ladder(arguments: argparse.Namespace) -> None:
    from antimatter.ladder import run as ladder
    from antimatter.pipeline import stage  # noqa: F401, before torch: it sets how threads wait
    from antimatter.planning import gpus

    shown = gpus.choose(arguments.gpu, arguments.price)
    given = {name: getattr(arguments, name) for name in ("flops", "jobs", "devices", "mfu")}
    options = ladder.Options(target=arguments.forecast, **given)
    if arguments.dry_run:
        ladder.dry_run(Path(), options, shown, sys.stdout)
    else:
        ladder.run(Path(), options, shown, sys.stdout, sys.stderr, fit_only=arguments.fit)


def watch(arguments: argparse.Namespace) -> None:
    from antimatter.monitor import watch

    watch.watch(arguments.folder, arguments.once, arguments.every, sys.stdout)


def card(arguments: argparse.Namespace) -> None:
    from antimatter.report import card

    card.write(arguments.output)
    print(f"{arguments.output} describes the model that dvc.lock records")


def plots(arguments: argparse.Namespace) -> None:
    from antimatter.report import revisions as plots

    plots.draw(arguments.revision or [plots.WORKSPACE], arguments.output)
    print(arguments.output)


def verify(arguments: argparse.Namespace) -> None:
    from antimatter import files
    from antimatter.verify import report as verdict
    from antimatter.verify import run as verify

    # Through every finally, so that no stage and no clone is left
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    request = verify.Request(arguments.start, tuple(arguments.set_param), arguments.keep)
    report = verify.verify(Path(), request, lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.json:
        files.write_json(arguments.json, verdict.as_json(report, arguments.exact))
    sys.stdout.writelines(f"{text}\n" for text in verdict.lines(report))
    sys.stdout.flush()
    if status := report.status(arguments.exact):
        sys.exit(status)


def kaggle(arguments: argparse.Namespace) -> None:
    from dataclasses import fields

    from antimatter.kaggle import kernel as kaggle

    given = {field.name: getattr(arguments, field.name) for field in fields(kaggle.Kernel)}
    kernel = kaggle.Kernel(**{**given, "title": arguments.title or f"antimatter {arguments.mode}"})
    folder: Path = arguments.folder
    commit = kaggle.write(folder, kernel)
    print(f"{folder} runs commit {commit[:12]} on Kaggle. Next (docs/kaggle.md):")
    print(
        f"  kaggle datasets create -p {folder}/dataset    # later: kaggle datasets version -p {folder}/dataset -m {commit[:12]}"
    )
    print(f"  kaggle datasets status {kernel.data_set}    # until it says ready")
    print(f"  kaggle kernels push -p {folder}")
    if kernel.offline and kernel.wheels is None:
        print(
            "note: with the internet off, packages that Kaggle lacks must come along: --wheels, docs/kaggle.md has the commands",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="antimatter", description="The pipeline's tools. The pipeline itself: `dvc repro`."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser(
        "chat",
        help="talk to the model in the terminal, or through a pipe",
        description="It answers, or continues your text. In a pipe: one answer per line of input.",
    )
    command.add_argument(
        "--model",
        type=Path,
        help=f"a GGUF file, or a folder with one (default: {GGUF}); implies --engine embedded",
    )
    command.add_argument(
        "--engine",
        choices=("auto", "ollama", "embedded"),
        default="auto",
        help="auto: Ollama if it runs and has this model",
    )
    tuned = "the one that the model was tuned with, if any"
    system = f"text before the conversation; '' is none (default: {tuned})"
    command.add_argument("--system", help=system)
    command.add_argument(
        "--temperature",
        type=float,
        help="0 always takes the likeliest token (default of this and the next: `ollama:` in params.yaml)",
    )
    command.add_argument("--top-p", type=float)
    command.add_argument("--top-k", type=int)
    command.add_argument("--num-predict", type=int, help="tokens of an answer, at most")
    command.set_defaults(run=chat)

    command = commands.add_parser(
        "export",
        help="any checkpoint as GGUF or for Hugging Face, also a .pt file or a state of a training that still runs",
        description="What the stage gguf does, for one checkpoint of your choice, and the same for transformers. Nothing in a .pt file is executed.",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        help=f"a folder, a .safetensors file, or a .pt file with a state dict (default: {TUNED}, or {CHECKPOINTS}, as `gguf.model` says)",
    )
    command.add_argument(
        "--config",
        type=Path,
        help="its config.json (default: the one beside it, or else its shapes, and `model:` of params.yaml)",
    )
    command.add_argument(
        "--type",
        action="append",
        choices=("f32", "f16", "q8_0", "q4_k_m", "hf"),
        help="can be repeated; hf: a folder for Hugging Face's transformers instead of a GGUF file (default: `gguf.types`)",
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER,
        help=f"the tokenizer.json it was trained with, or its folder (default: {TOKENIZER})",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("."),
        help="the folder for <name>-<type>.gguf, or <name>-hf/ (default: here)",
    )
    command.add_argument("--name", help="of the model (default: `gguf.name`)")
    command.add_argument(
        "--windows",
        type=int,
        default=4,
        help="contexts of validation text on which to compare it with torch; 0: do not (default: 4)",
    )
    command.set_defaults(run=export)

    command = commands.add_parser(
        "tune",
        help="give the tuned model another persona, in a minute or two",
        description="Goes on from a model that converses with the conversations of a persona file,"
        " and asks it the phrasings that the file holds out.",
    )
    command.add_argument("persona", type=Path, help="a file like prompts/persona.yaml")
    command.add_argument(
        "--from",
        dest="initial",
        type=Path,
        default=TUNED,
        help=f"the folder of the model to begin with (default: {TUNED})",
    )
    command.add_argument("--output", type=Path, required=True, help="the folder to write")
    command.add_argument("--epochs", type=float, default=1.0, help="(default: 1)")
    command.set_defaults(run=tune)

    command = commands.add_parser(
        "lm-eval",
        help="EleutherAI's evaluation harness on this model (an extra: docs/lm-eval.md)",
        description="Runs tasks of EleutherAI's lm-evaluation-harness on a checkpoint. What it needs beyond this project is an extra.",
    )
    command.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        help="names of tasks, groups or tags, or YAML files, separated by spaces or commas",
    )
    command.add_argument(
        "--include-path",
        type=Path,
        metavar="FOLDER",
        help="further tasks: a folder with their YAML files",
    )
    command.add_argument(
        "--num-fewshot",
        type=int,
        metavar="N",
        help="examples before each question (default: as the task says)",
    )
    command.add_argument(
        "--limit",
        type=float,
        metavar="N",
        help="documents of each task; below 1: a share of them (default: all)",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        default=CHECKPOINTS,
        help=f"as for `antimatter export` (default: {CHECKPOINTS})",
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER,
        help=f"the folder of its tokenizer.json (default: {TOKENIZER})",
    )
    command.add_argument(
        "--batch-size", type=int, default=16, help="texts in a forward pass (default: 16)"
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the results as JSON too, with every digit",
    )
    command.set_defaults(run=lm_eval)

    command = commands.add_parser(
        "serve",
        help="the chat page and OpenAI's API over HTTP",
        description="Serves the chat page at / and OpenAI's API at /v1, on this machine alone unless --host says otherwise.",
    )
    command.add_argument(
        "--engine",
        choices=("auto", "ollama", "embedded"),
        default="auto",
        help="auto: Ollama if there is one, else the embedded llama.cpp",
    )
    command.add_argument(
        "--model",
        type=Path,
        help=f"a GGUF file, or a folder with one (default: {GGUF}); implies --engine embedded",
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; beyond this machine a token is needed (default: 127.0.0.1)",
    )
    command.add_argument("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    command.add_argument(
        "--token-file",
        type=Path,
        help="requests must carry the token in it; the environment's ANTIMATTER_TOKEN does the same",
    )
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this server, e.g. of a tunnel",
    )
    command.add_argument("--parallel", type=int, default=4, help="answers at a time (default: 4)")
    ollama = command.add_argument_group(
        "Ollama",
        "without a running one that has the model, one from PATH or --prefix is started, and ends with this",
    )
    ollama.add_argument(
        "--install",
        action="store_true",
        help="if there is none, download it (1.4 GB), without root",
    )
    ollama.add_argument("--cpu-only", action="store_true", help="unpack no libraries for GPUs")
    ollama.add_argument(
        "--archive",
        default="",
        metavar="FILE_OR_URL",
        help="install from this archive of a release; its sha256sum.txt lies beside it",
    )
    ollama.add_argument(
        "--prefix",
        type=Path,
        default=Path(".state/ollama"),
        help="where to look for it, and to install it (default: .state/ollama)",
    )
    ollama.add_argument(
        "--ollama-port",
        type=int,
        help="start one there, and look for no running one (default: a free port)",
    )
    command.set_defaults(run=serve)

    command = commands.add_parser(
        "perplexity",
        help="how well the model predicts a text of your own",
        description="Sliding-window perplexity and bits per byte of any texts. Every token is scored once, each document from its beginning.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file (.json(l), .parquet, .gz and .zst too), a folder, a glob pattern, or - for standard input",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        default=CHECKPOINTS,
        help=f"a folder, a .safetensors file, or a .pt file with a state dict (default: {CHECKPOINTS})",
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER,
        help=f"the tokenizer.json it was trained with, or its folder (default: {TOKENIZER})",
    )
    command.add_argument(
        "--stride",
        type=int,
        help="tokens from one window to the next; less is slower, with more context (default: `evaluation.stride`)",
    )
    command.add_argument(
        "--text-column",
        help="of JSON and parquet: what holds the text (default: `evaluation.text_column`)",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="for programs: with more digits, and the sha256 of each file",
    )
    command.set_defaults(run=perplexity)

    inspect = commands.add_parser("inspect", help="look at what a data stage left")
    stages = inspect.add_subparsers(required=True, metavar="stage")
    command = stages.add_parser(
        "cleaned", help="why text was dropped: the table, or examples of one reason"
    )
    command.add_argument(
        "--reason", default="", help="show documents that were dropped for it, as they were found"
    )
    command.add_argument(
        "--count", type=int, default=5, help="how many of them, at most 20 (default: 5)"
    )
    command.set_defaults(run=inspect_cleaned)
    command = stages.add_parser(
        "shards", help="check every shard against the index, and decode some documents"
    )
    command.add_argument(
        "--count", type=int, default=2, help="documents of each split (default: 2)"
    )
    command.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    command.set_defaults(run=inspect_shards)

    command = commands.add_parser(
        "check",
        help="whether params.yaml is good, before anything is computed; mends files of DVC's that a kill has left incomplete",
        description="Reads every section of params.yaml as its stage will, and looks for the texts and packages that it names.",
    )
    command.set_defaults(run=check)

    command = commands.add_parser(
        "resume",
        help="let a run that was interrupted go on after a change of the code",
        description="Lists unfinished work; for a folder, shows what has changed in its code; with --accept, lets it go on under the code of now."
        " `dvc repro` resumes by itself what was begun under the same code.",
    )
    command.add_argument("folder", nargs="?", type=Path, help="in .state, as the list has it")
    command.add_argument(
        "--accept",
        action="store_true",
        help="let it go on; the provenance of the model, or the metrics of the data, will tell",
    )
    command.set_defaults(run=resume)

    command = commands.add_parser(
        "preset", help="replace params.yaml by a preset, and show the difference"
    )
    command.add_argument("name", help=f"the name of a file in {PRESETS}/, without .yaml")
    command.add_argument(
        "--force",
        action="store_true",
        help="overwrite changes of params.yaml that are not committed",
    )
    command.set_defaults(run=preset)

    command = commands.add_parser(
        "plan", help="what a training takes: FLOPs, memory, hours and money on known GPUs"
    )
    command.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("params.yaml"),
        help="the parameters (default: params.yaml)",
    )
    _cards(command)
    command.set_defaults(run=plan)

    command = commands.add_parser(
        "ladder",
        help="run small relatives of the model as DVC experiments, fit the scaling law, forecast a large run",
        description="Runs those rungs that have not run yet, and writes ladder/rungs.csv, ladder.json and ladder.png: docs/ladder.md.",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="only list the rungs and how long they would take"
    )
    command.add_argument("--fit", action="store_true", help="run nothing: fit what there is")
    command.add_argument(
        "--jobs", type=int, help="rungs at a time (default: one a core; one where there is a GPU)"
    )
    command.add_argument(
        "--flops",
        type=float,
        default=1e18,
        help="that the largest rung may take; a larger run is halved in width until it fits (default: 1e18)",
    )
    forecast = command.add_argument_group("the forecast")
    forecast.add_argument(
        "--forecast",
        type=Path,
        default=PRESETS / "300m.yaml",
        metavar="FILE",
        help=f"the parameters of the run (default: {PRESETS}/300m.yaml)",
    )
    _cards(forecast)
    command.set_defaults(run=ladder)

    command = commands.add_parser(
        "watch",
        help="the running training in this terminal: its curve, its speed, its newest sample",
    )
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("."),
        help="where it runs, with plots/ and metrics/ (default: here)",
    )
    command.add_argument(
        "--once", action="store_true", help="one picture, as into a file or a pipe"
    )
    command.add_argument(
        "--every",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks at the files (default: 2)",
    )
    command.set_defaults(run=watch)

    command = commands.add_parser(
        "card", help="write the model card from the files of the last run"
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("docs/model-card.md"),
        help="default: docs/model-card.md",
    )
    command.set_defaults(run=card)

    command = commands.add_parser(
        "plots", help="all charts of one or several revisions in one PNG, without DVC"
    )
    command.add_argument(
        "revision",
        nargs="*",
        help="commits, branches, names of experiments, or `workspace` (default: workspace)",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("plots.png"),
        metavar="FILE",
        help="(default: plots.png)",
    )
    command.set_defaults(run=plots)

    command = commands.add_parser(
        "verify",
        help="run the pipeline again in a temporary clone, and compare every output with what the commit records",
        description="Reproduces the commit that is checked out, in a temporary clone (TMPDIR) with an empty cache. Exits 0 if all is identical, or"
        " within the tolerance of another kind of machine (docs/verify.md); else 1. The progress goes to stderr, the report to stdout.",
    )
    command.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="STAGE",
        help="this stage and what follows; what it reads comes from the cache",
    )
    command.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter for this run; can be repeated",
    )
    command.add_argument(
        "--exact", action="store_true", help="exit 0 only if every output is the same to the byte"
    )
    command.add_argument("--keep", action="store_true", help="leave the clone, and say where")
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there too, for programs"
    )
    command.set_defaults(run=verify)

    command = commands.add_parser(
        "kaggle",
        help="write a kernel folder that runs the pipeline on Kaggle, or serves its model there",
        description="Writes FOLDER/kernel-metadata.json, run.py and dataset/ for `kaggle datasets create` and `kaggle kernels push`: docs/kaggle.md.",
    )
    command.add_argument("folder", type=Path, help="what it holds already is replaced")
    command.add_argument("--user", required=True, help="your user name at Kaggle")
    command.add_argument(
        "--mode",
        choices=("pipeline", "serve"),
        default="pipeline",
        help="pipeline: `dvc repro`; serve: `antimatter serve` (default: pipeline)",
    )
    command.add_argument(
        "--title",
        default="",
        help="of the kernel; its address is made of it (default: antimatter MODE)",
    )
    command.add_argument(
        "--accelerator",
        choices=("none", "t4"),
        default="none",
        help="t4: the two T4 that Kaggle lends (default: none)",
    )
    command.add_argument(
        "--offline", action="store_true", help="internet off: all comes from the data set"
    )
    command.add_argument(
        "--data",
        action="store_true",
        help="take data/shards along; the run begins with the training, on Kaggle's own torch",
    )
    command.add_argument(
        "--after",
        default="",
        metavar="KERNEL",
        help="attach its output: a pipeline goes on from it, a server takes its model",
    )
    command.add_argument(
        "--wheels", type=Path, metavar="DIR", help="wheels to take along, for --offline"
    )
    command.add_argument(
        "--ollama",
        type=Path,
        metavar="FILE",
        help="an archive of Ollama to take along, for --offline",
    )
    command.add_argument(
        "--hours",
        type=float,
        default=11.5,
        help="then the state is saved and the run ends; Kaggle's limit is 12 (default: 11.5)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="to serve after the first answers (default: 0; in an interactive session, all hours)",
    )
    command.set_defaults(run=kaggle)
    return parser


def _cards(command: "argparse._ActionsContainer") -> None:
    """On which GPUs a run is planned."""
    command.add_argument(
        "--devices", type=int, default=1, help="GPUs that share the batch (default: 1)"
    )
    command.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the GPU's peak that the training reaches (default: 0.4)",
    )
    command.add_argument("--gpu", help="show this one only")
    command.add_argument(
        "--price", type=float, help="US$ per GPU-hour of your provider, for all GPUs"
    )


if __name__ == "__main__":
    sys.exit(main())
