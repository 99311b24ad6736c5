"""Pictures, speech, voices, and videos: small real files, made on the spot."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Any

from .answers import count_tokens, words
from .messages import DONE, JSON, Answer, Call, data_event, event_stream, named_event
from .resources import delete, listing, plain, retrieve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .routes import Routes


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


PICTURE = base64.b64encode(png()).decode()


def wave(seconds: float) -> bytes:
    """Silence as a WAV file: 24 kHz, 16 bit, one channel."""
    data = bytes(int(24_000 * seconds) * 2)
    layout = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 24_000, 48_000, 2, 16, b"data", len(data))
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + layout + data


# Images.


def create_image(call: Call) -> Answer | JSON:
    """``POST /images/generations``, ``edits`` and ``variations``."""
    body = call.body
    model = str(body.get("model") or "dall-e-2")
    call.project.check_model(model)
    if not call.path.endswith("/variations"):
        call.require("prompt")
    if not call.path.endswith("/generations") and call.form is None:
        call.require("images")
    elif not call.path.endswith("/generations"):
        call.part("image")
    call.project.check_references(body)
    newer = model.startswith("gpt-image")
    as_text = newer or body.get("response_format") == "b64_json"
    picture = {"b64_json": PICTURE} if as_text else {"url": f"data:image/png;base64,{PICTURE}"}
    answer: JSON = {
        "created": call.world.now(),
        "data": [dict(picture) for _ in range(min(int(body.get("n") or 1), 10))],
    }
    if newer:
        answer |= {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
        answer["usage"] = image_usage(count_tokens(body["prompt"]))
    if body.get("stream") in (True, "true"):
        return event_stream(image_events(call, answer))
    return answer


def image_usage(text: int) -> JSON:
    """Token counts as pictures show them."""
    return {
        "input_tokens": text, "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": 4160, "total_tokens": 4160 + text,
    }  # fmt: skip


def image_events(call: Call, answer: JSON) -> Iterator[bytes]:
    """A picture that becomes clearer."""
    name = "image_edit" if call.path.endswith("/edits") else "image_generation"
    shared = {"created_at": answer["created"], "b64_json": PICTURE, "size": "1024x1024", "quality": "high"}
    shared |= {"background": "opaque", "output_format": "png"}
    for number in range(int(call.body.get("partial_images") or 0)):
        yield named_event(
            f"{name}.partial_image", {"type": f"{name}.partial_image", **shared, "partial_image_index": number}
        )
    usage = answer.get("usage") or image_usage(1)
    yield named_event(f"{name}.completed", {"type": f"{name}.completed", **shared, "usage": usage})


# Speech.


def create_speech(call: Call) -> Answer:
    """``POST /audio/speech``: silence that grows with the text, as bytes or as events."""
    model, text = call.require("model"), call.require("input")
    call.project.check_model(model)
    check_voice(call, call.require("voice"))
    sound = wave(0.05 * len(words(text)))
    pieces = [sound[at : at + 8192] for at in range(0, len(sound), 8192)]
    if call.body.get("stream_format") == "sse":
        spoken = [{"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in pieces]
        usage = {"input_tokens": count_tokens(text), "output_tokens": len(pieces)}
        usage["total_tokens"] = sum(usage.values())
        return event_stream(data_event(event) for event in [*spoken, {"type": "speech.audio.done", "usage": usage}])
    kind = AUDIO_TYPES.get(str(call.body.get("response_format") or "mp3"), b"audio/mpeg")
    return Answer(stream=iter(pieces), content_type=kind, paced=True)


AUDIO_TYPES = {
    "mp3": b"audio/mpeg",
    "opus": b"audio/opus",
    "aac": b"audio/aac",
    "flac": b"audio/flac",
    "wav": b"audio/wav",
    "pcm": b"audio/pcm",
}


def check_voice(call: Call, voice: Any) -> None:
    """A voice is a name that everyone may use, or an own one by its id."""
    if isinstance(voice, dict):
        call.project.get("voice", str(voice.get("id")))


def create_transcription(call: Call) -> Answer | JSON:
    """``POST /audio/transcriptions`` and ``translations``, in each format."""
    sound = call.part("file")
    body = call.body
    call.project.check_model(call.require("model"))
    text = f"This is the demo upstream. It heard {sound.content.size} bytes."
    tokens = {"input_tokens": 10, "output_tokens": count_tokens(text)}
    usage = {
        "type": "tokens",
        **tokens,
        "total_tokens": sum(tokens.values()),
        "input_token_details": {"audio_tokens": 10, "text_tokens": 0},
    }
    if body.get("stream") == "true":
        return event_stream(transcript_events(text, usage))
    form = body.get("response_format") or "json"
    if form in TRANSCRIPTS:
        return Answer(body=TRANSCRIPTS[form].format(text=text).encode(), content_type=b"text/plain; charset=utf-8")
    if form == "verbose_json":
        segment = {"id": 0, "start": 0.0, "end": 1.0, "text": text, "seek": 0, "tokens": [], "temperature": 0.0}
        segment |= {"avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.0}
        usage = {"type": "duration", "seconds": 1}
        return {
            "task": "transcribe",
            "language": "english",
            "duration": 1.0,
            "text": text,
            "segments": [segment],
            "usage": usage,
        }
    return {"text": text, "usage": usage}


TRANSCRIPTS = {
    "text": "{text}\n",
    "srt": "1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{text}\n\n",
}


def transcript_events(text: str, usage: JSON) -> Iterator[bytes]:
    """A transcript word by word."""
    for word in words(text):
        yield data_event({"type": "transcript.text.delta", "delta": word})
    yield data_event({"type": "transcript.text.done", "text": text, "usage": usage})
    yield DONE


def create_consent(call: Call) -> JSON:
    """``POST /audio/voice_consents``."""
    call.part("recording")
    return call.project.new("voice_consent", name=call.require("name"), language=call.require("language"))


def create_voice(call: Call) -> JSON:
    """``POST /audio/voices``: needs a consent of this project."""
    call.part("audio_sample")
    call.project.get("voice_consent", call.require("consent"))
    return call.project.new("voice", name=call.require("name"))


# Videos.


def create_video(call: Call, source: str | None = None) -> JSON:
    """``POST /videos`` and what makes one from another."""
    body, project = call.body, call.project
    prompt = call.require("prompt")
    model = body.get("model") or "sora-2"
    project.check_model(model)
    project.check_references(body)
    video = project.new(
        "video", model=model, status="queued", progress=0, completed_at=None, error=None, prompt=prompt,
        expires_at=call.world.now() + 86_400, size=body.get("size") or "720x1280",
        seconds=str(body.get("seconds") or "4"), remixed_from_video_id=source,
    )  # fmt: skip
    done = {"status": "completed", "progress": 100, "completed_at": call.world.now()}
    project.begin(video["id"], lambda: video.update(done))
    return video


def remix_video(call: Call) -> JSON:
    """``POST /videos/{id}/remix``."""
    return create_video(call, call.args["video"])


def change_video(call: Call) -> JSON:
    """``POST /videos/edits`` and ``/videos/extensions``: the source is named in the body."""
    source = call.body.get("video")
    id_ = source.get("id") if isinstance(source, dict) else None
    if id_ is not None:
        call.project.get("video", id_)
    return create_video(call, id_)


def video_content(call: Call) -> Answer:
    """``GET /videos/{id}/content``."""
    call.project.settle(call.args["video"])
    if call.first("variant") in ("thumbnail", "spritesheet"):
        return Answer(body=png(), content_type=b"image/png")
    box = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom")
    return Answer(body=box + struct.pack(">I4s", 8 + 4096, b"mdat") + bytes(4096), content_type=b"video/mp4")


def create_character(call: Call) -> JSON:
    """``POST /videos/characters``."""
    call.part("video")
    return call.project.new("video_character", name=call.require("name"))


ROUTES: Routes = {
    "POST /images/generations": create_image,
    "POST /images/edits": create_image,
    "POST /images/variations": create_image,
    "POST /audio/speech": create_speech,
    "POST /audio/transcriptions": create_transcription,
    "POST /audio/translations": create_transcription,
    **plain("/audio/voice_consents", "voice_consent", "audio.voice_consent"),
    "POST /audio/voice_consents": create_consent,
    "POST /audio/voices": create_voice,
    "POST /videos": create_video,
    "GET /videos": listing("video"),
    "GET /videos/{video}": retrieve,
    "DELETE /videos/{video}": delete("video.deleted"),
    "GET /videos/{video}/content": video_content,
    "POST /videos/{video}/remix": remix_video,
    "POST /videos/edits": change_video,
    "POST /videos/extensions": change_video,
    "POST /videos/characters": create_character,
    "GET /videos/characters/{video_character}": retrieve,
}
