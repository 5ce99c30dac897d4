// Two elements of the page: s2s-drop takes images, s2s-compare shows two pictures with a line between them.
// Everything comes from the page's own address.

const DROP = `
<style>
  :host { display: block; font: 14px/1.4 system-ui, sans-serif; }
  label { display: block; border: 2px dashed #8a94a3; border-radius: 8px; padding: 22px 16px; text-align: center;
    cursor: pointer; color: #4a5360; background: #fff8; }
  :host-context(.body--dark) label { color: #c3cad4; background: #fff1; }
  label:hover, label:focus-within, label.over { border-color: #5898d4; background: #5898d422; }
  b { display: block; font-size: 16px; }
  input { position: absolute; opacity: 0; width: 1px; height: 1px; }
  [role=status]:not(:empty) { padding: 6px 2px 0; }
  .failed { color: #c0281c; } :host-context(.body--dark) .failed { color: #ff8a80; }
</style>
<label><b>Drop images here</b>or click to choose them<input type="file" multiple aria-label="Choose images"></label>
<div role="status"></div>`;

class Drop extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = DROP;
    this.label = root.querySelector("label");
    this.status = root.querySelector("[role=status]");
    this.last = Promise.resolve();
    const input = root.querySelector("input");
    input.addEventListener("change", () => {
      this.take([...input.files]);
      input.value = "";
    });
    // A file that misses the zone would replace the page.
    addEventListener("dragover", (event) => {
      event.preventDefault();
      this.label.classList.add("over");
    });
    addEventListener("dragleave", (event) => event.relatedTarget || this.label.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.label.classList.remove("over");
      this.take([...event.dataTransfer.files]);
    });
  }

  take(files) {
    for (const file of files) this.last = this.last.then(() => this.send(file));
  }

  send(file) {
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      request.open("POST", "/upload");
      request.setRequestHeader("X-Name", encodeURIComponent(file.name));
      request.upload.onprogress = (event) => {
        this.tell(`taking ${file.name}, ${Math.round((100 * event.loaded) / (event.total || 1))} %`);
      };
      request.onload = () => {
        if (request.status === 200) this.tell("");
        else this.tell(`${file.name} could not be taken: ${request.responseText}`, true);
        resolve();
      };
      request.onerror = () => {
        // A folder that is dropped looks like a file until it is read.
        this.tell(`${file.name} could not be taken. Is it a folder? Is self2self still running?`, true);
        resolve();
      };
      request.send(file);
    });
  }

  tell(text, failed = false) {
    this.status.textContent = text;
    this.status.classList.toggle("failed", failed);
  }
}

const COMPARE = `
<style>
  :host { display: block; font: 13px system-ui, sans-serif; }
  #view { position: relative; height: max(340px, calc(100vh - 150px)); overflow: hidden; border-radius: 8px;
    background: #2b2e34; touch-action: none; cursor: ew-resize; }
  #view.zoomed { cursor: grab; }
  .layer { position: absolute; inset: 0; overflow: hidden; pointer-events: none; }
  .layer img { position: absolute; left: 0; top: 0; transform-origin: 0 0; max-width: none; }
  .sharp img { image-rendering: pixelated; }
  #line { position: absolute; top: 0; bottom: 0; width: 24px; margin-left: -12px; cursor: ew-resize; }
  #line::before { content: ""; position: absolute; left: 11px; width: 2px; top: 0; bottom: 0; background: #fff;
    box-shadow: 0 0 3px #000; }
  #line::after { content: "◂ ▸"; position: absolute; top: 50%; left: -6px; width: 36px; height: 36px; margin-top: -18px;
    border-radius: 50%; background: #fff; color: #333; text-align: center; line-height: 36px;
    box-shadow: 0 1px 4px #0008; }
  #line:focus-visible { outline: 2px solid #5898d4; }
  .name { position: absolute; top: 10px; padding: 3px 10px; border-radius: 12px; background: #000a; color: #fff;
    pointer-events: none; }
  #before { left: 10px; } #after { right: 10px; }
  #bar { position: absolute; right: 10px; bottom: 10px; display: flex; gap: 4px; }
  button { border: 0; border-radius: 6px; padding: 6px 11px; background: #000a; color: #fff; font: inherit;
    cursor: pointer; }
  button:hover { background: #000; }
  #empty { position: absolute; inset: 0; display: grid; place-items: center; color: #b8bfc9; font-size: 16px; }
  [hidden] { display: none !important; }
</style>
<div id="view">
  <div class="layer"></div><div class="layer"></div>
  <div id="line" tabindex="0" role="slider" aria-label="Noisy on the left, denoised on the right" aria-valuemin="0"
    aria-valuemax="100"></div>
  <span class="name" id="before">noisy</span><span class="name" id="after">denoised</span>
  <div id="bar"><button data-zoom="fit">Fit</button><button data-zoom="1">100 %</button>
    <button data-zoom="out" aria-label="Smaller">−</button><button data-zoom="in" aria-label="Larger">+</button></div>
  <div id="empty">The image appears here.</div>
</div>`;

const LARGEST_ZOOM = 32;
const STEP = 1.5;

class Compare extends HTMLElement {
  static observedAttributes = ["pair"];

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = COMPARE;
    this.view = root.getElementById("view");
    this.line = root.getElementById("line");
    this.layers = [...root.querySelectorAll(".layer")];
    this.cut = 0.5;
    this.size = null; // of the pictures, in pixels
    this.fitted = true;
    this.zoom = 1;
    this.left = this.top = 0;
    this.view.addEventListener("pointerdown", (event) => this.grab(event));
    this.view.addEventListener("dblclick", (event) => this.zoomTo(this.fitted ? 1 : "fit", event));
    this.view.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoomTo(this.zoom * Math.exp(-event.deltaY * 0.002), event);
      },
      { passive: false },
    );
    this.line.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      this.cut = Math.min(1, Math.max(0, this.cut + move));
      this.draw();
    });
    root.getElementById("bar").addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (!how) return;
      const next = { fit: "fit", 1: 1, in: this.zoom * STEP, out: this.zoom / STEP }[how];
      this.zoomTo(next);
    });
    this.view.addEventListener("pointerdown", () => this.line.focus({ preventScroll: true }));
    new ResizeObserver(() => this.draw()).observe(this.view);
    this.draw();
  }

  async attributeChangedCallback(_, __, pair) {
    if (!pair) {
      this.layers.forEach((layer) => layer.replaceChildren());
      this.size = null;
      this.draw();
      return;
    }
    const images = pair.split(" ").map((address) => Object.assign(new Image(), { src: address, draggable: false, alt: "" }));
    const loaded = images.map((image) => new Promise((done, fail) => Object.assign(image, { onload: done, onerror: fail })));
    try {
      await Promise.all(loaded);
      await Promise.all(images.map((image) => image.decode().catch(() => null)));
    } catch {
      return; // There are newer ones.
    }
    if (this.getAttribute("pair") !== pair) return;
    const size = [images[0].naturalWidth, images[0].naturalHeight];
    if (!this.size || this.size[0] !== size[0] || this.size[1] !== size[1]) this.fitted = true;
    this.size = size;
    this.layers.forEach((layer, index) => layer.replaceChildren(...images.slice(index, index + 1)));
    this.draw();
  }

  fittingZoom() {
    const [width, height] = this.size;
    return Math.min(this.view.clientWidth / width, this.view.clientHeight / height, 8);
  }

  zoomTo(zoom, event) {
    if (!this.size) return;
    const smallest = this.fittingZoom();
    if (zoom === "fit" || zoom < smallest) {
      this.fitted = true;
    } else {
      const box = this.view.getBoundingClientRect();
      const x = event ? event.clientX - box.left : box.width / 2;
      const y = event ? event.clientY - box.top : box.height / 2;
      const next = Math.min(LARGEST_ZOOM, Math.max(Math.min(zoom, LARGEST_ZOOM), Math.min(smallest, 1)));
      this.left = x - ((x - this.left) * next) / this.zoom;
      this.top = y - ((y - this.top) * next) / this.zoom;
      this.zoom = next;
      this.fitted = false;
    }
    this.draw();
  }

  grab(event) {
    if (event.button !== 0 || event.target.closest("button") || !this.size) return;
    const box = this.view.getBoundingClientRect();
    const movesLine = this.fitted || event.target === this.line;
    const start = [event.clientX - this.left, event.clientY - this.top];
    const move = (moved) => {
      if (movesLine) {
        this.cut = Math.min(1, Math.max(0, (moved.clientX - box.left) / box.width));
      } else {
        [this.left, this.top] = [moved.clientX - start[0], moved.clientY - start[1]];
      }
      this.draw();
    };
    const end = () => this.view.removeEventListener("pointermove", move);
    this.view.setPointerCapture(event.pointerId);
    this.view.addEventListener("pointermove", move);
    this.view.addEventListener("pointerup", end, { once: true });
    this.view.addEventListener("pointercancel", end, { once: true });
    if (movesLine && event.target !== this.line) move(event);
  }

  draw() {
    const shown = this.size !== null;
    const both = shown && this.layers[1].firstChild !== null;
    for (const part of ["line", "before", "after"]) this.shadowRoot.getElementById(part).hidden = !both;
    this.shadowRoot.getElementById("bar").hidden = !shown;
    this.shadowRoot.getElementById("empty").hidden = shown;
    if (!shown) return;
    const [viewWidth, viewHeight] = [this.view.clientWidth, this.view.clientHeight];
    if (this.fitted) {
      this.zoom = this.fittingZoom();
      this.left = (viewWidth - this.size[0] * this.zoom) / 2;
      this.top = (viewHeight - this.size[1] * this.zoom) / 2;
    } else {
      // Some of the image stays in sight.
      const clamp = (value, length, room) => Math.min(room * 0.9, Math.max(room * 0.1 - length, value));
      this.left = clamp(this.left, this.size[0] * this.zoom, viewWidth);
      this.top = clamp(this.top, this.size[1] * this.zoom, viewHeight);
    }
    const place = `translate(${this.left}px, ${this.top}px) scale(${this.zoom})`;
    for (const layer of this.layers) {
      layer.classList.toggle("sharp", this.zoom >= 2);
      if (layer.firstChild) layer.firstChild.style.transform = place;
    }
    this.view.classList.toggle("zoomed", !this.fitted);
    const cut = this.cut * viewWidth;
    this.layers[1].style.clipPath = `inset(0 0 0 ${cut}px)`;
    this.line.style.left = `${cut}px`;
    this.line.setAttribute("aria-valuenow", Math.round(100 * this.cut));
    this.dataset.zoom = this.zoom.toFixed(3);
  }
}

customElements.define("s2s-drop", Drop);
customElements.define("s2s-compare", Compare);
