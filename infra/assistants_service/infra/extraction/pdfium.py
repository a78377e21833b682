"""Load pdfium, which reads PDF files for kreuzberg, from a folder that no other user can write to.

kreuzberg carries pdfium as bytes. At the first PDF it unpacks them into the folder `kreuzberg-pdfium` of the temporary
kreuzberg contains pdfium as bytes. At the first PDF it unpacks them into the folder `kreuzberg-pdfium` of the temporary
folder, unless a file of that name and about that size exists, which it then loads
(crates/kreuzberg/src/pdf/bundled.rs). In a shared temporary folder that may be another user's code. So it gets a
folder in the reader's own, which is deleted as soon as pdfium is loaded.
"""

from __future__ import annotations

import functools
import os
import tempfile
from typing import Final

# An empty page.
_BLANK: Final = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
)


@functools.cache
def unavailable_reason() -> str:
    """Load pdfium, once per process. Returns why it cannot be loaded, or an empty text."""
    import kreuzberg

    config = kreuzberg.ExtractionConfig(use_cache=False, disable_ocr=True)  # type: ignore[call-arg] # missing in its stub
    own = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(dir=own, ignore_cleanup_errors=True) as folder:
            # Permanently: from then on nothing finds a temporary folder. Windows calls it TMP.
            os.environ["TMPDIR"] = os.environ["TMP"] = folder
            kreuzberg.extract_bytes_sync(_BLANK, "application/pdf", config)
    except (OSError, kreuzberg.KreuzbergError) as error:
        return f"pdfium cannot be loaded from a folder in {own}, which must be writable and not noexec: {error}"
    return ""
