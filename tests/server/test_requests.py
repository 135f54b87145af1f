"""A real server, over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.runtime import Audio, Session
from mmedge.runtime.media import decode_audio, decode_image
from mmedge.server.app import App
from mmedge.server.limits import Limits

MODEL = "/v2/models/digits"


def image_file(kind: str = "PNG", orientation: int | None = None) -> bytes:
    """A file of grey noise, 64 wide and 32 high as stored."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64), np.uint8))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def audio_file(channels: int = 1, kind: str = "WAV") -> bytes:
    """One second of noise at 8 kHz."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(1).uniform(-0.5, 0.5, (8000, channels)), 8000, format=kind)
    return file.getvalue()


def image_tensor(**changes: Any) -> dict[str, Any]:
    """A valid image input of an infer request, changed."""
    return {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": [0.5] * 1024} | changes


def error(answer: httpx.Response) -> str:
    """The reason in a refusal, which is strict JSON and no traceback."""
    payload = json.loads(answer.content, parse_constant=pytest.fail)
    assert set(payload) == {"error"}
    assert "Traceback" not in payload["error"]
    assert answer.headers["content-type"] == "application/json"
    return str(payload["error"])


def test_metadata_and_health_are_those_of_the_protocol(client: httpx.Client) -> None:
    assert client.get("/v2").json()["name"] == "mmedge"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get(f"{MODEL}/ready").json() == {"name": "digits", "ready": True}
    assert client.head("/v2/health/ready").status_code == 200
    metadata = client.get(MODEL).json()
    assert metadata == client.get(f"{MODEL}/versions/1").json()
    assert [entry["name"] for entry in metadata["inputs"]] == ["image", "audio"]
    assert metadata["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32]}


def test_infer_gives_what_the_session_gives_for_every_subset(client: httpx.Client, digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    random = np.random.default_rng(2)
    tensors = {e.name: random.normal(size=e.shape).astype(np.float32) for e in session.manifest.inputs}
    for subset in (["image"], ["audio"], ["image", "audio"]):
        inputs = [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [1, *tensors[name].shape],
                "data": tensors[name][None].tolist(),
            }
            for name in subset
        ]
        answer = client.post(f"{MODEL}/infer", json={"id": "7", "inputs": inputs})
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == "7"
        data = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        expected = session.run(tensors={name: tensors[name] for name in subset})
        np.testing.assert_array_equal(np.array(data["logits"], np.float32), expected.outputs["logits"])
        assert data["label"] == [expected.label]
        assert data["scores"] == [expected.scores[label] for label in session.labels]


def test_predict_gives_what_the_session_gives_for_the_same_files(client: httpx.Client, digits_bundle: Path) -> None:
    image, audio = image_file(), audio_file(channels=2, kind="FLAC")
    answer = client.post(f"{MODEL}/predict", files={"image": ("7.png", image), "audio": ("seven.flac", audio)})
    expected = Session(digits_bundle).run(image=decode_image(image), audio=decode_audio(audio))
    payload = answer.json()
    assert set(payload) == {"model", "label", "score", "scores", "input_weights", "timings_us"}
    assert payload["input_weights"] == expected.input_weights
    assert (payload["model"], payload["label"], payload["score"]) == (
        "digits",
        expected.label,
        expected.score,
    )
    assert list(payload["scores"].items()) == list(expected.scores.items())
    assert {"preprocess.image", "preprocess.audio", "engine", "total"} <= set(payload["timings_us"])


def test_predict_and_infer_answer_what_each_task_has(start_server: Callable[..., Any], bundles: Path) -> None:
    grey, color = image_file(), io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)).save(color, "PNG")
    for name, files, outputs in (
        ("multilabel", {"image": color.getvalue()}, ["label", "scores", "logits"]),
        ("embedding", {"front": grey, "back": grey}, ["weights", "embedding"]),
        ("vqa", {"image": grey, "audio": audio_file()}, ["label", "scores", "relevance", "logits"]),
    ):
        server, session = start_server(f"{name}.mme"), Session(bundles / f"{name}.mme")
        with httpx.Client(base_url=server.url, timeout=20) as client:
            payload = client.post(f"/v2/models/{name}/predict", files=files).json()
            result = session.run(
                **{key: (decode_audio if key == "audio" else decode_image)(file) for key, file in files.items()}
            )
            expected = json.loads(json.dumps(result.to_dict()))
            assert payload.pop("model") == name
            assert payload.pop("timings_us").keys() == expected.pop("timings_us").keys()
            assert payload == expected
            assert [output["name"] for output in client.get(f"/v2/models/{name}").json()["outputs"]] == outputs
            tensors = [
                {"name": e.name, "datatype": "FP32", "shape": [1, *e.shape], "data": [0.25] * int(np.prod(e.shape))}
                for e in session.manifest.inputs
            ]
            answer = client.post(f"/v2/models/{name}/infer", json={"inputs": tensors}).json()
            assert [output["name"] for output in answer["outputs"]] == outputs
        server.stop()
        assert server.log.read_text() == ""


def test_predict_takes_a_text_as_a_field_or_a_file(start_server: Callable[..., Any], bundles: Path) -> None:
    server, text = start_server("words.mme"), "Où est le RED circle? 赤"
    expected = json.loads(json.dumps(Session(bundles / "words.mme").run(text=text).to_dict()))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for field in ((None, text), ("question.txt", text.encode())):
            assert client.post("/v2/models/words/predict", files={"text": field}).json()["scores"] == expected["scores"]
        assert "UTF-8" in error(client.post("/v2/models/words/predict", files={"text": (None, b"\xff")}))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_in_a_jpeg_is_applied(client: httpx.Client, digits_bundle: Path, orientation: int) -> None:
    stored = image_file("JPEG", orientation)
    with Image.open(io.BytesIO(stored)) as image:
        turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # quarter turns to the left
        upright = np.ascontiguousarray(np.rot90(np.asarray(image), turns))
    answer = client.post(f"{MODEL}/predict", files={"image": ("7.jpg", stored)})
    assert answer.json()["score"] == Session(digits_bundle).run(image=upright).score


JPEG = image_file("JPEG")


@pytest.mark.parametrize(
    ("field", "name", "content"),
    [
        ("image", "cut.jpg", JPEG[: len(JPEG) * 6 // 10]),
        ("image", "cut.png", image_file()[:800]),
        ("image", "empty.png", b""),
        ("image", "notes.png", b"no image at all"),
        ("audio", "empty.wav", b""),
        ("audio", "notes.wav", b"no sound at all"),
        ("audio", "seven.png", image_file()),
    ],
)
def test_an_unreadable_file_is_named_in_the_error(client: httpx.Client, field: str, name: str, content: bytes) -> None:
    answer = client.post(f"{MODEL}/predict", files={field: (name, content)})
    assert answer.status_code == 400
    assert name in error(answer)


def test_a_clip_without_samples_is_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0), 8000, format="WAV")
    answer = client.post(f"{MODEL}/predict", files={"audio": ("none.wav", file.getvalue())})
    assert answer.status_code == 400
    assert "none.wav" in error(answer)


def test_a_nan_sample_in_a_clip_is_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.array([0.0, np.nan] * 500), 8000, format="WAV", subtype="FLOAT")
    answer = client.post(f"{MODEL}/predict", files={"audio": ("nan.wav", file.getvalue())})
    assert answer.status_code == 400
    error(answer)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/", 404, None),
        ("GET", "/v2/", 404, None),
        ("GET", "/v2/models", 404, None),
        ("GET", "/v2/models/letters", 404, None),
        ("POST", "/v2/models/letters/infer", 404, None),
        ("GET", f"{MODEL}/versions/2", 404, None),
        ("GET", f"{MODEL}/versions", 404, None),
        ("POST", f"{MODEL}/train", 404, None),
        ("GET", "/v2/models/*", 404, None),
        ("GET", "/v2/%00%ff", 404, None),
        ("POST", "/v2", 405, "GET, HEAD"),
        ("DELETE", MODEL, 405, "GET, HEAD"),
        ("GET", f"{MODEL}/infer", 405, "POST"),
        ("PUT", f"{MODEL}/predict", 405, "POST"),
    ],
)
def test_unknown_paths_and_wrong_methods_are_refused(
    client: httpx.Client, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers.get("allow") == allowed
    error(answer)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no JSON", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (json.dumps({"inputs": []}).encode(), "every input is absent"),
        (json.dumps({"inputs": [image_tensor(name="video")]}).encode(), "'video'"),
        (json.dumps({"inputs": [image_tensor(shape=[-1, 16])]}).encode(), "-1, 16"),
        (
            json.dumps({"inputs": [image_tensor(shape=[4611686018427387904, 8])]}).encode(),
            "4611686018427387904",
        ),
        (json.dumps({"inputs": [image_tensor(shape=[1] * 10_000)]}).encode(), "shape"),
        (json.dumps({"inputs": [image_tensor(shape="1,1,32,32")]}).encode(), "shape"),
        (json.dumps({"inputs": [image_tensor(data="0.5")]}).encode(), "data"),
        (json.dumps({"inputs": [image_tensor(data=[float("nan")] * 1024)]}).encode(), "NaN"),
    ],
)
def test_a_bad_request_costs_little_and_the_next_one_is_served(
    client: httpx.Client, server: Any, body: bytes, reason: str
) -> None:
    before = server.memory("VmHWM")
    answer = client.post(f"{MODEL}/infer", content=body)
    assert answer.status_code == 400
    assert reason in error(answer)
    assert server.memory("VmHWM") - before < 50 << 20
    assert client.post(f"{MODEL}/infer", json={"inputs": [image_tensor()]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status", "reason"),
    [
        ("infer", {"content-type": "text/plain"}, 415, "text/plain"),
        ("infer", {"content-encoding": "gzip"}, 415, "Content-Encoding"),
        ("infer", {"inference-header-content-length": "20"}, 400, "binary"),
        ("predict", {}, 415, "multipart/form-data"),
        ("predict", {"content-type": "application/json"}, 415, "multipart/form-data"),
        ("predict", {"content-type": "multipart/form-data"}, 400, "no boundary"),
        ("predict", {"content-type": "multipart/form-data; boundary=x"}, 400, "malformed"),
    ],
)
def test_a_body_of_another_type_is_refused(
    client: httpx.Client, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = client.post(f"{MODEL}/{path}", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert reason in error(answer)


@pytest.mark.parametrize("content", [b"0" * 300_000, [b"0" * 1000] * 300])
def test_a_body_beyond_the_limit_is_refused_declared_or_not(client: httpx.Client, content: Any) -> None:
    chunks = content if isinstance(content, bytes) else iter(content)  # an iterator is sent without a length
    answer = client.post(f"{MODEL}/infer", content=chunks)
    assert answer.status_code == 413
    assert "200000" in error(answer)
    assert client.get("/v2/health/ready").status_code == 200


def test_json_longer_than_the_model_can_use_is_refused_unread(start_server: Callable[..., Any]) -> None:
    server = start_server()
    indented = json.dumps({"inputs": [image_tensor(data=[1 / 3] * 1024)]}, indent=16)
    assert httpx.post(f"{server.url}{MODEL}/infer", content=indented).status_code == 200
    before = server.memory("VmHWM")
    answer = httpx.post(f"{server.url}{MODEL}/infer", content=b'{"inputs": [' + b"{}," * 5_000_000)
    assert answer.status_code == 413
    error(answer)
    assert server.memory("VmHWM") - before < 50 << 20


def test_an_output_that_is_not_finite_is_a_500_that_names_it(start_server: Callable[..., Any]) -> None:
    # Its warm-up would find the fault before any client does.
    server = start_server("nan.mme", before="import mmedge.server.run as run; run.warm_up = lambda *_: None")
    answers = [
        httpx.post(f"{server.url}{MODEL}/infer", json={"inputs": [image_tensor()]}),
        httpx.post(f"{server.url}{MODEL}/predict", files={"image": ("7.png", image_file())}),
    ]
    for answer in answers:
        assert answer.status_code == 500
        assert 'output "logits" holds nan' in error(answer)
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


def test_what_is_not_http_is_refused(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": ' in answer


def test_a_chunked_body_that_breaks_the_rules_is_refused(server: Any, client: httpx.Client) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        head = f"POST {MODEL}/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"no length\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
    assert client.get("/v2/health/ready").status_code == 200


def test_requests_beyond_the_queue_are_refused_and_health_still_answers(
    start_server: Callable[..., Any],
) -> None:
    # The model takes its time: a decoder that waits for its input is as good as a slow model.
    slow = "import time, mmedge.server.app as app; decode = app.decode_image\n"
    slow += "app.decode_image = lambda *given: (time.sleep(1), decode(*given))[1]"
    server = start_server(when_ready=slow, waiting=2)
    answers: list[httpx.Response] = []

    def predict() -> None:
        files = {"image": ("7.png", image_file())}
        answers.append(httpx.post(f"{server.url}{MODEL}/predict", files=files, timeout=20))

    threads = [threading.Thread(target=predict) for _ in range(5)]
    for thread in threads:
        thread.start()
    while not answers:
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "waiting" in error(refused)


def test_the_request_of_a_client_who_left_is_not_run(start_server: Callable[..., Any]) -> None:
    slow = "import time, mmedge.server.app as app; decode = app.decode_image\n"
    slow += "app.decode_image = lambda *given: (print('decoding', flush=True), time.sleep(0.5), decode(*given))[2]"
    server = start_server(when_ready=slow)
    form = httpx.Request("POST", f"{server.url}{MODEL}/predict", files={"image": ("7.png", image_file())})
    content = form.read()
    head = f"POST {MODEL}/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {form.headers['content-type']}\r\n"
    for _ in range(8):
        with socket.create_connection(server.address) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    answer = httpx.post(f"{server.url}{MODEL}/predict", files={"image": ("7.png", image_file())}, timeout=20)
    assert answer.status_code == 200
    assert server.stop() == 0
    # What had begun as its client left goes on; the rest does not begin.
    assert 1 <= server.process.stdout.read().count("decoding") <= 4


@pytest.mark.parametrize("body_bytes", [2000, 100_000])
def test_a_server_whose_clients_must_be_brief_becomes_ready(start_server: Callable[..., Any], body_bytes: int) -> None:
    server = start_server(body_bytes=body_bytes)  # the warm-up is no larger than that either
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def test_a_long_clip_is_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(601_000, np.int16), 1000, format="FLAC")
    assert len(file.getvalue()) < 10_000
    answer = client.post(f"{MODEL}/predict", files={"audio": ("hour.flac", file.getvalue())})
    assert answer.status_code == 400
    assert "hour.flac: found 601000 samples, 601 s; expected at most 67108864 and 600 s" in error(answer)


def test_bodies_beyond_the_memory_set_aside_are_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(held_bytes=100_000)
    url = f"{server.url}{MODEL}/infer"
    answer = httpx.post(url, content=b" " * 150_000)
    assert answer.status_code == 503
    assert "memory" in error(answer)
    for _ in range(5):
        assert httpx.post(url, content=b" " * 90_000).status_code == 400


def test_a_fault_of_the_server_shows_no_traceback_to_the_client(start_server: Callable[..., Any]) -> None:
    server = start_server(when_ready="import mmedge.server.app as app; app.read_parts = None")
    answer = httpx.post(f"{server.url}{MODEL}/predict", files={"image": ("7.png", image_file())})
    assert answer.status_code == 500
    assert error(answer).startswith("internal error")
    assert "TypeError" in server.log.read_text()


def test_a_model_that_is_not_warm_is_live_but_not_ready(digits_bundle: Path) -> None:
    async def statuses() -> list[int]:
        app = App(Session(digits_bundle), Limits())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            paths = ["/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"]
            answers = [(await client.get(path)).status_code for path in paths]
        app.close()
        return answers

    assert asyncio.run(statuses()) == [200, 400, 400]


def test_a_result_without_a_modality_differs_from_one_with_zeros(client: httpx.Client, digits_bundle: Path) -> None:
    alone = client.post(f"{MODEL}/predict", files={"image": ("7.png", image_file())}).json()
    silence = Audio(np.zeros(8000, np.float32), 8000)
    session = Session(digits_bundle)
    image = decode_image(image_file())
    assert alone["score"] == session.run(image=image).score
    assert alone["score"] != session.run(image=image, audio=silence).score
