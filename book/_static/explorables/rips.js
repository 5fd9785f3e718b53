// Rips filtration, barcode and diagram of ≤ 12 movable points: data-points="[[x, y], …]", 0 ≤ x, y ≤ 6
(() => {
	const END = 6 * Math.SQRT2, H = ["var(--tk-h0)", "var(--tk-h1)"], AMBER = "var(--tk-accent)";

	// H0 by union-find, H1 by reducing boundaries over GF(2). Bar: [dimension, birth, death, killer, maker].
	function rips(points) {
		const edges = [], faces = [], row = {}, bars = [[0, 0, Infinity]], pivots = {}, sort = l => l.sort((a, b) => a.value - b.value);
		points.forEach((p, j) => points.slice(0, j).forEach((q, i) =>
			edges.push({ of: [i, j], value: Math.hypot(p[0] - q[0], p[1] - q[1]) })));
		sort(edges).forEach((e, r) => { row[e.of] = r; });
		for (const { of: [i, j] } of edges) for (let k = j + 1; k < points.length; k++) {
			const rows = [row[[i, j]], row[[i, k]], row[[j, k]]];
			faces.push({ of: [i, j, k], rows, value: edges[Math.max(...rows)].value });
		}
		const up = [...points.keys()], find = i => up[i] === i ? i : find(up[i]);
		for (const e of edges) {
			const [a, b] = e.of.map(find);
			up[b] = a;
			e.merges = a !== b;
			if (e.merges && e.value) bars.push([0, 0, e.value, e.of]);
		}
		for (const t of sort(faces)) {
			let low, cycle = t.rows.reduce((sum, r) => sum ^ 1n << BigInt(r), 0n);
			while (cycle && pivots[low = cycle.toString(2).length - 1]) cycle ^= pivots[low];
			if (!cycle) continue;
			pivots[low] = cycle;
			const { value, of } = edges[low];
			if (value < t.value) bars.push([1, value, t.value, t.of, of]);
		}
		return [edges, faces, bars];
	}

	function mount(root) {
		const start = root.dataset.points, all = s => root.querySelectorAll(s), list = (items, f) => items.map(f).join("");
		const svg = name => `<svg viewBox="0 0 100 100" role="group" aria-label="${name}" fill="none" font-size="5"></svg>`;
		root.innerHTML += `<div class="tk-controls"><label>ε <input type="range" max="${END}" step=".01"></label><button>Next event</button>
<button>Reset</button></div><p class="tk-reading" role="status" style="min-height:3em"></p><div class="tk-panels">${svg("Points: arrow keys")}${svg("Barcode")}${svg("Diagram")}</div>`;
		const [cloud, barcode, diagram] = all("svg"), [next, reset] = all("button"), [slider] = all("input"), [text] = all("p:last-of-type");
		const X = v => 8 + 10 * v, Y = v => v > END ? 3 : 92 - 10 * v, name = of => of.map(i => i + 1).join("–");
		const at = i => points[i].map((v, c) => c ? 95 - 15 * v : 5 + 15 * v);
		const shape = (of, stroke = "none", width = 0) => `<path d="M${of.map(at).join("L")}Z" stroke="${stroke}" stroke-width="${width}"/>`;
		const say = ([k, birth, death, killer, maker]) => `H${k}: born ${birth.toFixed(2)}${maker ? " by edge " + name(maker) : ""}, ` +
			(killer ? `dies ${death.toFixed(2)} by ${k ? "triangle" : "edge"} ${name(killer)}` : "never dies");
		let points = JSON.parse(start), eps = 0, bars, held;
		cloud.innerHTML = "<g></g><g></g>" + list(points, (_, i) => `<g tabindex="0" role="button" data-i="${i}" style="touch-action:none">
<circle r="7" fill="#0000"/><circle r="2.4" fill="currentColor"/><text x="3" y="-3">${i + 1}</text></g>`);

		function draw() {
			let edges, faces, now = c => c.value <= eps;
			[edges, faces, bars] = rips(points);
			root.dataset.points = JSON.stringify(points);
			slider.value = eps;
			all("[data-i]").forEach((g, i) => {
				g.setAttribute("transform", `translate(${at(i)})`);
				g.ariaLabel = `Point ${i + 1} at ${points[i]}`;
			});
			cloud.firstChild.innerHTML = list(points, (_, i) => `<circle r="${7.5 * eps}" transform="translate(${at(i)})" fill="${H[0]}" opacity=".1"/>`) +
				`<g fill="#8883">${list(faces.filter(now), t => shape(t.of))}</g>` +
				list(edges.filter(now), e => shape(e.of, ...e.merges ? [H[0], 1.6] : ["#888", .5]));
			const axes = (title, more) => list([0, 2, 4, 6, 8], v => `<text x="${X(v)}" y="99">${v}</text>`) +
				`<text x="86" y="90">${title}</text><path stroke="#888" stroke-width=".5" d="M8 92H98${more}"/><path stroke="${AMBER}" d="M`;
			barcode.innerHTML = axes("ε", "") + `${X(eps)} 2V92"/>` + list(bars, (b, i) => {
				const line = `<path d="M${X(b[1])} ${5 + 84 * i / bars.length}H${X(Math.min(b[2], 9))}" stroke-width=`;
				return `<g data-bar="${i}" data-value="${b.slice(0, 3)}" tabindex="0" role="img" aria-label="${say(b)}">${line}"2"/>${line}"6" stroke="#0000"/></g>`;
			});
			diagram.innerHTML = axes("birth", "M98 3H8V92L97 3") + `8 ${Y(eps)}H${X(eps)}V92"/><text x="10" y="10">death</text>` + list(bars, ([, b, d], i) => `<circle
data-bar="${i}" r="1.2" stroke-width="2" cx="${X(b)}" cy="${Y(d)}"/>`);
			pick();
		}
		function pick(event) {
			const bar = bars[event?.target.closest("[data-bar]")?.dataset.bar];
			const alive = k => bars.filter(([d, a, b]) => d === k && a <= eps && eps < b).length;
			all("[data-bar]").forEach((g, i) => { const b = bars[i % bars.length]; g.setAttribute("stroke", b === bar ? AMBER : H[b[0]]); });
			cloud.children[1].innerHTML = list(bar?.slice(3) ?? [], of => shape(of, AMBER, 2));
			text.textContent = `ε = ${eps.toFixed(2)}. Components: ${alive(0)}. Loops: ${alive(1)}. ${bar ? say(bar) : ""}`;
		}
		const move = (i, to) => { points[i] = to.map(v => Math.round(10 * Math.min(6, Math.max(0, v))) / 10); draw(); };
		slider.oninput = () => { eps = +slider.value; draw(); };
		next.onclick = () => { eps = Math.min(END, ...bars.flatMap(b => b.slice(1, 3)).filter(v => v > eps)); draw(); };
		reset.onclick = () => { points = JSON.parse(start); eps = 0; draw(); };
		cloud.onpointerdown = e => { held = e.target.parentNode.dataset.i; };
		cloud.onpointermove = e => {
			const { x, y } = new DOMPoint(e.clientX, e.clientY).matrixTransform(cloud.getScreenCTM().inverse());
			if (held && e.buttons) move(held, [(x - 5) / 15, (95 - y) / 15]);
		};
		cloud.onkeydown = e => {
			const by = { Left: [-.1, 0], Right: [.1, 0], Up: [0, .1], Down: [0, -.1] }[e.key.slice(5)], { i } = e.target.dataset;
			if (!by || !i) return;
			e.preventDefault();
			move(i, points[i].map((v, c) => v + by[c]));
		};
		root.onpointerover = pick;
		root.addEventListener("focusin", pick);
		draw();
	}
	document.querySelectorAll("[data-explorable=rips]").forEach(mount);
})();
