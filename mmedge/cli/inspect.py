"""mmedge inspect"""

from __future__ import annotations

import click

from mmedge.cli.ui import json_option, megabytes, print_json, print_table


@click.command()
@click.argument("bundle", type=click.Path())
@json_option
def inspect(bundle: str, as_json: bool) -> None:
    """Check BUNDLE and show what it holds. Needs no inference engine.

    \b
    Example:
      mmedge inspect digits.mme --json
    """
    from mmedge.runtime import read_manifest

    manifest = read_manifest(bundle)
    if as_json:
        print_json(manifest.model_dump())
        return
    click.echo(f"{bundle}: {manifest.name}, {manifest.task}, schema {manifest.schema_version}; every hash matches")
    print_table(
        "Inputs",
        ["input", "shape", "preprocessing"],
        [
            [
                entry.name,
                str(entry.shape),
                ", ".join(f"{key} {value}" for key, value in entry.preprocess.items()),
            ]
            for entry in manifest.inputs
        ],
    )
    print_table(
        "Outputs",
        ["output", "kind", "shape", "labels"],
        [
            [entry.name, entry.kind, str(entry.shape), ", ".join(manifest.labels) if entry.kind == "logits" else ""]
            for entry in manifest.outputs
        ],
    )
    print_table(
        "Graphs",
        ["graph", "precision", "target", "opset", "IR version", "size"],
        [
            [
                g.path,
                g.precision,
                g.target,
                str(g.opset),
                str(g.ir_version),
                megabytes(manifest.files[g.path].size),
            ]
            for g in manifest.graphs
        ],
    )
    scores = manifest.evidence.get("accuracy", {}).get("subsets", {})
    rows = []
    for entry in manifest.evidence.get("parity", {}).get("outputs", []):
        row = scores.get("+".join(entry.get("subset", [])), {})
        rows.append(
            [
                " + ".join(entry.get("subset", ["-"])),
                entry.get("output", "-"),
                _number(entry.get("max_abs"), ".2e"),
                _number(entry.get("top1_agreement"), ".4f"),
                str(entry.get("samples", "-")),
                ", ".join(f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float)),
            ]
        )
    calibration = manifest.evidence.get("calibration")
    if rows:
        title = "Evidence (parity and agreement are those of the fp32 graph)" if calibration else "Evidence"
        print_table(title, ["modalities", "output", "parity max abs", "top-1 agreement", "samples", "scores"], rows)
    if calibration and "chosen" in calibration:
        layers, speedup = calibration["chosen"]["layers"], calibration["chosen"]["speedup"]
        click.echo(
            f"Calibrated: {len(layers)} of {calibration['layers']} layers in INT8, {speedup:.2f} times as fast on the "
            f"CPU that chose them, at most {_number(calibration['max_accuracy_drop'], 'g')} points lost"
        )
    print_table("Provenance", ["what", "value"], [[key, str(value)] for key, value in manifest.provenance.items()])


def _number(value: object, form: str) -> str:
    """As the evidence has it; nobody checks that against a schema."""
    return format(value, form) if isinstance(value, int | float) else "-"
