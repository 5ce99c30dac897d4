"""Writes one self-contained HTML page about a denoised image: a single file that needs no server and no network.

    check_report(Path("noisy.html"), force=False)     # before anything slow
    write_report(Path("noisy.html"), content)

`page` computes what the page shows, `pictures` turns arrays into embedded images and charts, `html` fills in the
templates, and `page.html.j2` is the template of the page.
"""

from self2self.report.page import ReportContent, check_report, write_report

__all__ = ["ReportContent", "check_report", "write_report"]
