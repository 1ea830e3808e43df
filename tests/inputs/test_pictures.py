"""The reader of pictures: upright, over white, every mode, whole or named, and nothing squeezed."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from semu_diffusion.inputs.pictures import MOST_PIXELS, fitted, list_pictures, open_picture, read_picture

TURN = 0x0112  # EXIF's orientation


def corners(width=6, height=4):
    """Red, green above; blue, black below."""
    image = Image.new("RGB", (width, height))
    for box, colour in (((0, 0), "red"), ((width // 2, 0), "lime"), ((0, height // 2), "blue")):
        image.paste(Image.new("RGB", (width // 2, height // 2), colour), box)
    return image


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(tmp_path, kind, turn):
    """A camera writes the pixels turned by `turn`; what was in front of it comes back."""
    undo = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[turn]  # PIL's transpose that was applied
    truth = stored = corners(64, 48)
    for move in undo:
        stored = stored.transpose(Image.Transpose(move))
    exif = Image.Exif()
    exif[TURN] = turn
    options = {"quality": 95, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    stored.save(tmp_path / f"x.{kind}", exif=exif, **options)
    found, wanted = np.asarray(open_picture(tmp_path / f"x.{kind}"), int), np.asarray(truth, int)
    assert found.shape == wanted.shape and abs(found - wanted).mean() < 4


def test_what_is_transparent_is_over_white(tmp_path):
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[..., 0], colours[..., 3] = 200, [[0, 255], [51, 128]]
    Image.fromarray(colours).save(tmp_path / "x.png")
    expected = [[[255, 255, 255], [200, 0, 0]], [[244, 204, 204], [227, 127, 127]]]
    assert abs(np.asarray(open_picture(tmp_path / "x.png"), int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB", "1"])
def test_transparency_of_every_kind(tmp_path, mode):
    if mode == "LA":
        image, options = Image.merge("LA", [Image.new("L", (2, 1), 90), Image.new("L", (2, 1), 0)]), {}
    else:
        image = Image.new(mode, (2, 1), 0 if mode != "RGB" else (9, 9, 9))
        options = {"transparency": 0 if mode != "RGB" else (9, 9, 9)}
    image.save(tmp_path / "x.png", **options)
    assert (np.asarray(open_picture(tmp_path / "x.png")) == 255).all()


def test_sixteen_bits_keep_their_range(tmp_path):
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    for name in ("x.png", "x.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(open_picture(tmp_path / name))[0, :, 0].tolist() == [0, 1, 100, 255]
    Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)).save(tmp_path / "f.tiff")
    assert np.asarray(open_picture(tmp_path / "f.tiff"))[0, :, 1].tolist() == [0, 51, 255]
    for odd in (np.array([[-1.0, 300.0]], np.float32), np.array([[np.nan]], np.float32), np.array([[70000]], np.int32)):
        Image.fromarray(odd).save(tmp_path / "odd.tiff")
        with pytest.raises(ValueError, match="odd.tiff .*values are not in"):
            open_picture(tmp_path / "odd.tiff")


def sixteen_bit_rgb(pixel):
    """A PNG of one RGB pixel in 16 bits, written by hand."""
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731, E501
    head, body = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(b"\0" + struct.pack(">HHH", *pixel))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


def test_other_modes(tmp_path):
    assert np.asarray(open_picture(sixteen_bit_rgb((65535, 257 * 100, 0)))).flatten().tolist() == [255, 100, 0]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert abs(np.asarray(open_picture(tmp_path / "x.jpg"), int) - [255, 0, 0]).max() <= 6
    Image.new("L", (1, 1), 77).save(tmp_path / "grey.png")
    assert np.asarray(open_picture(tmp_path / "grey.png")).flatten().tolist() == [77] * 3
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "p.gif")
    assert np.asarray(open_picture(tmp_path / "p.gif")).flatten().tolist() == [10, 20, 30]
    corners(16, 16).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    with Image.open(tmp_path / "phone.jpg") as image:
        assert image.format == "MPO"  # what phones call a JPEG with a second picture
    assert open_picture(tmp_path / "phone.jpg").getpixel((2, 2))[0] > 200
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "icc.png", icc_profile=profile)
    assert read_picture(tmp_path / "icc.png").flatten().mul(255).tolist() == pytest.approx([1, 2, 3])


def test_nothing_is_squeezed():
    image = Image.new("RGB", (40, 10), "white")
    image.paste(Image.new("RGB", (14, 10), "black"), (13, 0))  # a square in the middle
    found = np.asarray(fitted(image, 20, 20)).mean(2)
    assert found.shape == (20, 20) and found.max() < 10  # of the whole, squeezed, a quarter would be black
    tall = np.asarray(fitted(image.transpose(Image.Transpose.ROTATE_90), 8, 8)).mean(2)
    assert tall.shape == (8, 8) and tall.max() < 10
    assert np.asarray(fitted(image, 10, 20)).mean() == pytest.approx(255 * 6 / 20, abs=12)  # other shapes than squares
    same = corners()
    assert np.array_equal(fitted(same, 4, 6), same)  # what fits stays as it is, to the bit


def test_damaged_files_are_named(tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    cases = {"cut.png": whole.getvalue()[:1500], "head.png": whole.getvalue()[:20], "text.png": b"hello",
             "empty.jpg": b"", "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}  # fmt: skip
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    cases["cut.jpg"] = jpeg.getvalue()[:700]
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is not a picture") as caught:
            open_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.png").mkdir()
    for name in ("folder.png", "absent.png"):
        with pytest.raises(ValueError, match=name):
            open_picture(tmp_path / name)


def test_a_small_file_that_asks_for_much_memory(tmp_path):
    side = 60_000
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731, E501
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")))
    with pytest.raises(ValueError, match="bomb.png"):
        open_picture(tmp_path / "bomb.png")
    head = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 0, 0, 0, 0)  # where Pillow would only warn
    assert MOST_PIXELS < 11_000**2
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")))
    with pytest.raises(ValueError, match="11,000 x 11,000 pixels"):
        open_picture(tmp_path / "large.png")


def test_what_systems_leave_is_no_picture(tmp_path):
    for name in ("a.PNG", "deep/b.JPeG", "._a.png", ".hidden.png", "__MACOSX/a.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [f.relative_to(tmp_path).as_posix() for f in list_pictures(tmp_path)] == ["a.PNG", "deep/b.JPeG"]
    with pytest.raises(ValueError, match="no pictures in nowhere"):
        list_pictures("nowhere")


def test_drawn_pictures_come_back_to_the_bit(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    assert torch.equal(read_picture(tmp_path / "x.png"), image / 255)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", "cut"], ids=["empty", "text", "head", "cut"])
def test_a_detector_refuses_what_is_no_whole_picture(tmp_path, data):
    from semu_diffusion.metrics.nudity import read

    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:1500] if data == "cut" else data)
    with pytest.raises(ValueError, match="x.png is not a picture"):
        read(tmp_path / "x.png")


def test_a_detector_sees_the_same(tmp_path):
    from semu_diffusion.metrics.nudity import read

    colours = np.zeros((1, 2, 4), np.uint8)
    colours[..., 0], colours[..., 3] = 200, [[0, 255]]
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png").tolist() == [[[255, 255, 255], [0, 0, 200]]]  # blue first
