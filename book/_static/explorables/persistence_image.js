// Bars that can be dragged, one weighted Gaussian bump each, and the image they add up to. No dependency.
// <div class="tk-explorable" data-explorable="persistence_image" data-bars="b,p b,p …">shown without JavaScript</div>
// The element's property `image` is what topokd_lib's PersistenceImage computes on [0, 1]² with value="density".
(() => {
  const WEIGHTS = { persistence: p => p, constant: () => 1 }, LEFT = 12, SIZE = 100;

  function density(bars, { bandwidth: h, resolution, weight }) {
    const nodes = [...Array(resolution).keys()];
    const bump = (node, at) => Math.exp(-((node / (resolution - 1) - at) ** 2) / (2 * h * h));
    return nodes.map(row => nodes.map(column => bars.reduce((sum, [b, p]) =>
      sum + WEIGHTS[weight](p) * bump(column, b) * bump(row, p) / (2 * Math.PI * h * h), 0)));
  }

  // Pixels above 1 % of the largest that none of their eight neighbours exceeds; of equal neighbours the first counts.
  function peaks(image) {
    const top = Math.max(...image.flat()), near = [-1, 0, 1];
    const beaten = (value, r, c) => near.some(i => near.some(j => {
      const other = image[r + i]?.[c + j] ?? -1;
      return i < 0 || (!i && j < 0) ? other >= value : other > value;
    }));
    return image.flatMap((row, r) => row.filter((value, c) => value > top / 100 && !beaten(value, r, c))).length;
  }

  function mount(root) {
    const start = () => root.dataset.bars.split(" ").map(bar => bar.split(",").map(Number));
    const question = root.querySelector(".tk-question");
    let bars = start();
    const range = (name, label, min, max, step, value) => `<label>${label}<input type="range" name="${name}"
 min="${min}" max="${max}" step="${step}" value="${value}"><span class="tk-value"></span></label>`;
    const mark = (_, i) => `<g tabindex="0" role="slider" aria-label="Bar ${i + 1}" aria-valuemin="0" aria-valuemax="1"
 style="touch-action:none;cursor:grab;outline:none"><circle r="8" fill="#0000"/><circle fill="none" stroke="var(--tk-h1)"/>
<circle r="2.2" fill="var(--tk-h1)" stroke="#fff" stroke-width=".6"/></g>`;
    root.innerHTML = `<div class="tk-panels"><svg viewBox="0 0 116 116" width="384" font-size="5" text-anchor="middle"
 role="group" aria-label="Persistence image under its bars: birth to the right, persistence upwards, both from 0 to 1">
<g shape-rendering="crispEdges" fill="currentColor"></g><path d="M12 2h100v100h-100z" fill="none" stroke="currentColor"
 stroke-width=".4"/><text x="62" y="111">birth b</text><text transform="translate(7 52)rotate(-90)">persistence p</text>
${bars.map(mark).join("")}</svg><form class="tk-controls">${range("bandwidth", "h", .02, .3, .01, .06)}
${range("resolution", "pixels", 3, 30, 1, 15)}<label>weight<select name="weight"><option>persistence</option>
<option>constant</option></select></label><button type="reset">Reset</button><output class="tk-reading"></output></form></div>`;
    if (question) root.prepend(question);
    const form = root.querySelector("form"), plot = root.querySelector("svg");
    const marks = [...plot.querySelectorAll("[role=slider]")], values = form.querySelectorAll(".tk-value");

    function draw() {
      const h = +form.bandwidth.value, resolution = +form.resolution.value, side = SIZE / resolution;
      const image = root.image = density(bars, { bandwidth: h, resolution, weight: form.weight.value });
      const top = Math.max(...image.flat()), place = v => side / 2 + v * (SIZE - side);
      plot.querySelector("g").innerHTML = image.flatMap((row, r) => row.map((value, c) => `<rect x="${LEFT + c * side}"
 y="${102 - (r + 1) * side}" width="${side}" height="${side}" fill-opacity="${(.8 * value / top).toFixed(3)}"/>`)).join("");
      marks.forEach((g, i) => {
        const [b, p] = bars[i];
        g.setAttribute("transform", `translate(${LEFT + place(b)} ${102 - place(p)})`);
        g.ariaValueNow = p;
        g.ariaValueText = `birth ${b.toFixed(2)}, persistence ${p.toFixed(2)}`;
        g.children[1].setAttribute("r", h * (SIZE - side));
      });
      values[0].textContent = h.toFixed(2);
      values[1].textContent = `${resolution} × ${resolution}`;
      const count = peaks(image);
      form.lastChild.textContent = `${bars.length} bars → ${resolution ** 2} numbers, ${count} ` +
        `${count === 1 ? "peak" : "peaks"}. Largest pixel ${top.toFixed(2)}.`;
    }
    function move(i, b, p) {
      bars[i] = [b, p].map(v => Math.round(1000 * Math.min(1, Math.max(0, v))) / 1000);
      draw();
    }
    marks.forEach((g, i) => {
      g.onpointerdown = e => g.setPointerCapture(e.pointerId);
      g.onpointermove = e => {
        if (!g.hasPointerCapture(e.pointerId)) return;
        const { x, y } = new DOMPoint(e.clientX, e.clientY).matrixTransform(plot.getScreenCTM().inverse());
        const side = SIZE / form.resolution.value, value = v => (v - side / 2) / (SIZE - side);
        move(i, value(x - LEFT), value(102 - y));
      };
      g.onkeydown = e => {
        const [b, p] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key] ?? [];
        if (b === undefined) return;
        e.preventDefault();
        move(i, bars[i][0] + b / 50, bars[i][1] + p / 50);
      };
    });
    form.oninput = draw;
    form.onreset = () => setTimeout(() => { bars = start(); draw(); });
    form.onsubmit = () => false;
    draw();
  }
  document.querySelectorAll("[data-explorable=persistence_image]").forEach(mount);
})();
