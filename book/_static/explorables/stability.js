// A cloud that is shaken, and how far its diagram moves: data-points="[[x, y], …]", 0 ≤ x, y ≤ 6, at most 12 points.
// The element's property `state` holds what is shown: { delta, points, moved, before, after, distances }.
(() => {
	const COLOUR = ["var(--tk-h0)", "var(--tk-h1)"], list = (items, f) => items.map(f).join("");

	// Bars of dimensions 0 and 1 as pairs [birth, death], without the one that never ends.
	function rips(points) {
		const edges = [], faces = [], row = {}, pivots = {}, bars = [[], []], by = (a, b) => a.value - b.value;
		points.forEach((p, j) => points.slice(0, j).forEach((q, i) =>
			edges.push({ of: [i, j], value: Math.hypot(p[0] - q[0], p[1] - q[1]) })));
		edges.sort(by).forEach((edge, rank) => { row[edge.of] = rank; });
		const up = [...points.keys()], find = i => up[i] === i ? i : find(up[i]);
		for (const { of: [i, j], value } of edges) {
			if (find(i) !== find(j) && value) bars[0].push([0, value]);
			up[find(j)] = find(i);
			for (let k = j + 1; k < points.length; k++) {
				const rows = [row[[i, j]], row[[i, k]], row[[j, k]]];
				faces.push({ rows, value: edges[Math.max(...rows)].value });
			}
		}
		for (const { rows, value } of faces.sort(by)) {
			let low, cycle = rows.reduce((sum, r) => sum ^ 1n << BigInt(r), 0n);
			while (cycle && pivots[low = cycle.toString(2).length - 1]) cycle ^= pivots[low];
			if (!cycle) continue;
			pivots[low] = cycle;
			if (edges[low].value < value) bars[1].push([edges[low].value, value]);
		}
		return bars;
	}

	// The smallest step with which all bars can be matched, to each other or to the diagonal.
	function bottleneck(one, other) {
		const half = ([b, d]) => (d - b) / 2, size = [...Array(one.length + other.length).keys()];
		const cost = (a, b) => a && b ? Math.max(Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])) : a || b ? half(a ?? b) : 0;
		const costs = size.map(i => size.map(j => cost(one[i], other[j])));
		for (const step of costs.flat().sort((a, b) => a - b)) {
			const owner = [], place = (i, seen) => size.some(j => costs[i][j] <= step && !seen.has(j) && seen.add(j) &&
				(owner[j] === undefined || place(owner[j], seen)) && ((owner[j] = i), true));
			if (size.every(i => place(i, new Set()))) return step;
		}
		return 0;
	}

	function mount(root) {
		const points = JSON.parse(root.dataset.points), before = rips(points);
		const svg = name => `<svg viewBox="0 0 100 100" role="img" aria-label="${name}" fill="none" font-size="5"></svg>`;
		root.insertAdjacentHTML("beforeend", `<div class="tk-panels">${svg("Points, and where each may go")}${svg("Diagram before and after")}</div>
<div class="tk-controls"><label>δ <input type="range" max="1.5" step=".05"></label><button>Shake again</button><button>Reset</button></div>
<p class="tk-reading" role="status" style="min-height:4.5em"></p>`);
		const [cloud, diagram] = root.querySelectorAll("svg"), [again, reset] = root.querySelectorAll("button");
		const slider = root.querySelector("input"), text = root.querySelector("[role=status]");
		let shake;

		function draw() {
			let seed = shake, random = () => (seed = (seed * 16807 + 11) % 2147483647) / 2147483647;
			const delta = +slider.value, turns = points.map(() => (random(), 2 * Math.PI * random()));
			const moved = points.map(([x, y], i) => [x + delta * Math.cos(turns[i]), y + delta * Math.sin(turns[i])]);
			const after = rips(moved), distances = [0, 1].map(k => bottleneck(before[k], after[k]));
			root.state = { delta, points, moved, before, after, distances };
			const X = v => 15 + 11.7 * v, Y = v => 85 - 11.7 * v, U = v => 10 + 12 * v, V = v => 90 - 12 * v;
			cloud.innerHTML = list(points, ([x, y], i) => `<circle cx="${X(x)}" cy="${Y(y)}" r="${11.7 * delta}" fill="#8883"/>
<path d="M${X(x)} ${Y(y)}L${X(moved[i][0])} ${Y(moved[i][1])}" stroke="#888" stroke-width=".6"/><circle cx="${X(x)}" cy="${Y(y)}" r="1.3" stroke="#888" stroke-width=".6"/>
<circle cx="${X(moved[i][0])}" cy="${Y(moved[i][1])}" r="1.8" fill="currentColor"/>`);
			const side = 48 * delta, dots = (bars, f) => list(bars, (each, k) => list(each, ([b, d]) => f(U(b), V(d), COLOUR[k])));
			diagram.innerHTML = `<path d="M10 4V90H98M10 90L96 4" stroke="#888" stroke-width=".5"/>` +
				list([0, 2, 4, 6], v => `<text x="${U(v)}" y="97" text-anchor="middle">${v}</text><text x="3" y="${V(v) + 2}">${v}</text>`) +
				`<text x="84" y="86">birth</text><text x="13" y="8">death</text>` +
				dots(before, (x, y, c) => `<rect x="${x - side / 2}" y="${y - side / 2}" width="${side}" height="${side}" fill="${c}" opacity=".12"/>`) +
				dots(before, (x, y, c) => `<circle cx="${x}" cy="${y}" r="1.8" stroke="${c}" stroke-width=".8"/>`) +
				dots(after, (x, y, c) => `<circle cx="${x}" cy="${y}" r="1.4" fill="${c}"/>`);
			const [h0, h1] = distances.map(v => v.toFixed(2));
			text.textContent = `Every point moved by δ = ${delta.toFixed(2)}. Allowed: 2δ = ${(2 * delta).toFixed(2)}. ` +
				`The diagrams moved by ${h0} (components) and ${h1} (loops): ${Math.max(...distances) <= 2 * delta + 1e-9 ? "within the bound" : "beyond the bound"}.`;
		}
		const start = () => { shake = 1; slider.value = .3; draw(); };
		slider.oninput = draw;
		again.onclick = () => { shake++; draw(); };
		reset.onclick = start;
		start();
	}
	document.querySelectorAll("[data-explorable=stability]").forEach(mount);
})();
