"""A bundle appears whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import make_bundles
import pytest
import torch

from mmedge.export.engines import check_parse
from mmedge.export.writing import check_destination, staged
from mmedge.models import FusedModel
from mmedge.runtime import Session, read_manifest
from mmedge.runtime.errors import BundleError, InvalidArgument, ParityError


class _Drifting(torch.nn.Module):
    """Computes something else in an export than in torch."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.output_names = model.output_names

    def forward(self, **tensors: torch.Tensor) -> Any:
        output = self.model(**tensors)
        if torch.onnx.is_in_onnx_export():
            output.logits = output.logits + 0.01
        return output


def test_a_bundle_that_differs_from_its_model_is_not_written(tmp_path: Path) -> None:
    destination = tmp_path / "digits.mme"
    with pytest.raises(ParityError, match=r"sample 'sample \d' with .*differs by 0\.01") as failure:
        make_bundles.write(_Drifting(make_bundles.digits_model()), destination)
    assert failure.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0, float("inf")])
def test_a_tolerance_that_is_no_number_from_zero_on_is_refused(tolerance: float, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"a tolerance of {tolerance} for the parity gate"):
        make_bundles.write(make_bundles.digits_model(), tmp_path / "digits.mme", tolerance=tolerance)
    assert list(tmp_path.iterdir()) == []


def test_the_gate_covers_every_subset_and_its_figures_travel_in_the_manifest(digits_bundle: Path) -> None:
    parity = read_manifest(digits_bundle).evidence["parity"]
    assert [(entry["subset"], entry["output"]) for entry in parity["outputs"]] == [
        (subset, output)
        for subset in (["image"], ["audio"], ["image", "audio"])
        for output in ("logits", "modality_weights")
    ]
    for entry in parity["outputs"]:
        assert entry["max_abs"] <= 1e-4
        assert entry["top1_agreement"] == 1.0
        assert entry["cosine_min"] > 0.9999
        assert entry["worst_sample"]


def test_an_existing_bundle_is_replaced_only_on_request_and_only_by_one_that_passes(tmp_path: Path) -> None:
    destination = tmp_path / "digits.mme"
    make_bundles.write(make_bundles.digits_model(), destination)
    before = (destination / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="exists"):
        make_bundles.write(make_bundles.digits_model(1), destination)
    with pytest.raises(ParityError):
        make_bundles.write(_Drifting(make_bundles.digits_model(1)), destination, overwrite=True)
    assert (destination / "manifest.json").read_bytes() == before
    make_bundles.write(make_bundles.digits_model(1), destination, overwrite=True)
    assert (destination / "manifest.json").read_bytes() != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits.mme"]
    Session(destination)


def test_a_bundle_is_put_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.mme").mkdir()
    (tmp_path / "old.mme" / "manifest.json").write_text("old")
    rename = os.rename

    def broken_off(source: Path, destination: Path) -> None:
        if Path(source).name == "new":
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", broken_off)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "old.mme", overwrite=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "old.mme",
        "old.mme/manifest.json",
    ]
    assert (tmp_path / "old.mme" / "manifest.json").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_not_replaced_and_what_was_made_is_kept(overwrite: bool, tmp_path: Path) -> None:
    destination = tmp_path / "made.mme"
    file = destination / ("chapter1" if overwrite else "manifest.json")  # no bundle, or one

    def make() -> None:
        with staged(destination, overwrite) as folder:
            (folder / "manifest.json").write_text("mine")
            destination.mkdir()
            file.write_text("theirs")

    with pytest.raises(
        BundleError, match=r"made\.mme exists.* meanwhile; what was made is kept in .*: move"
    ) as failure:
        make()
    assert file.read_text() == "theirs"
    (kept,) = tmp_path.glob(".made.mme.*/new")
    assert str(kept) in str(failure.value)
    assert (kept / "manifest.json").read_text() == "mine"


def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.mme").mkdir()
    (tmp_path / "thesis.mme" / "chapter1").write_text("it was a dark and stormy night")
    with pytest.raises(BundleError, match="no bundle"):
        make_bundles.write(make_bundles.digits_model(), tmp_path / "thesis.mme", overwrite=True)
    with pytest.raises(InvalidArgument, match=r"ends in \.mme"):
        make_bundles.write(make_bundles.digits_model(), tmp_path / "digits")
    with pytest.raises(InvalidArgument, match="no such directory"):
        make_bundles.write(make_bundles.digits_model(), tmp_path / "none" / "digits.mme")


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^/proc cannot be written to \(.*\); give another place"):
        make_bundles.write(make_bundles.digits_model(), Path("/proc/digits.mme"))
    check_destination(tmp_path / "digits.mme", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_the_digests_are_what_sha256sum_says(digits_bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=digits_bundle, check=True)
    for name, file in json.loads((digits_bundle / "manifest.json").read_text())["files"].items():
        done = subprocess.run(["sha256sum", name], cwd=digits_bundle, capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == file["sha256"]


def test_a_bundle_runs_the_same_from_another_place(digits_bundle: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(digits_bundle, tmp_path / "moved")
    inputs = make_bundles.raw_samples(1)[0][1]
    assert Session(moved).run(**inputs).scores == Session(digits_bundle).run(**inputs).scores


def test_tensorrt_rtx_accepts_the_bundles_graph(digits_bundle: Path) -> None:
    report = check_parse((digits_bundle / "model.onnx").read_bytes())
    assert report, report.errors
