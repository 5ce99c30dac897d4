"""One self-contained HTML page about a denoised image: no server, no network, one file to send.

    check_report(Path("noisy.html"), force=False)     # before anything slow
    write_report(Path("noisy.html"), content)

`pictures` turns arrays into embedded images and charts; `page.html.j2` is the page.
"""

from self2self.report.page import ReportContent, check_report, write_report

__all__ = ["ReportContent", "check_report", "write_report"]
