# SPDX-License-Identifier: Apache-2.0
"""Pictures come from below the report's folder alone, scaled, without the meta data of their files."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from monai_adversarial.audit.report.pictures import LARGEST_WIDTH, data_url, inside


@pytest.mark.parametrize("file", ["../outside.png", "/etc/hostname", "missing.png", "", ".", None, 3, "a\0b"])
def test_what_is_not_a_file_below_the_folder_is_not_followed(tmp_path, file):
    (tmp_path / "report").mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    assert inside(tmp_path / "report", file) is None


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "report" / "link.png").symlink_to(tmp_path / "outside.png")
    assert inside(tmp_path / "report", "link.png") is None


def test_a_file_that_is_no_picture_is_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert inside(tmp_path, "broken.png") is not None
    assert data_url(tmp_path / "broken.png") is None


def test_a_picture_is_scaled_and_its_text_left_behind(tmp_path):
    picture = Image.new("RGB", (3000, 600), "#804020")
    exif = picture.getexif()
    exif[0x010E] = "DOE^JOHN"
    picture.save(tmp_path / "a.png", exif=exif)
    assert b"DOE" in (tmp_path / "a.png").read_bytes()
    address, width, height = data_url(tmp_path / "a.png")
    content = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(content)) as found:
        assert found.size == (width, height) == (LARGEST_WIDTH, 220)
    assert b"DOE" not in content
