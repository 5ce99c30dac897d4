"""`self2self gui`: a page in the browser for people without a terminal; it needs the extra ``gui`` (NiceGUI).

- `desk`: the images of the page, which are denoised one after the other.
- `pictures`: what the page shows of them.
- `guard`: who may talk to the page.
- `server`: the page's address, uploads and downloads.
- `page`: what stands on it; ``page.js``: its comparison and its drop zone.
"""
