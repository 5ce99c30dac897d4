"""Writes one self-contained HTML page about a denoised image: a single file that needs no server and no network.

    check_report(Path("noisy.html"), force=False)     # before anything slow
    write_report(Path("noisy.html"), content)

`page` computes what the page shows, and `batch` what the page about many images shows. `pictures` turns arrays into
embedded images and charts, `html` fills in the templates `page.html.j2` and `batch.html.j2`.
"""

from self2self.report.batch import BatchRow, check_batch_report, write_batch_report
from self2self.report.page import ReportContent, check_report, write_report

__all__ = ["BatchRow", "ReportContent", "check_batch_report", "check_report", "write_batch_report", "write_report"]
