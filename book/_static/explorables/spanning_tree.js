// Kruskal's algorithm, one edge at a time, and the barcode of dimension 0: data-points="[[x, y], …]", 0 ≤ x, y ≤ 6
(() => {
	const H0 = "var(--tk-h0)", AMBER = "var(--tk-accent)", GREY = "#888";

	// Union-find on the edges in order of length. A merge keeps the smaller name: `gone` is the leader that ends.
	function kruskal(points) {
		const edges = [], leader = [...points.keys()], find = i => leader[i] === i ? i : find(leader[i]);
		points.forEach((p, j) => points.slice(0, j).forEach((q, i) =>
			edges.push({ of: [i, j], length: Math.hypot(p[0] - q[0], p[1] - q[1]) })));
		edges.sort((a, b) => a.length - b.length);
		let joined = 0;
		for (const e of edges) {
			const [a, b] = e.of.map(find);
			e.leaders = [a, b];
			e.joins = a !== b;
			e.gone = Math.max(a, b);
			if (e.joins) { leader[e.gone] = Math.min(a, b); joined++; }
			e.last = joined === points.length - 1;
			e.names = points.map((_, i) => find(i));
		}
		return edges;
	}

	function mount(root) {
		const start = root.dataset.points, all = s => root.querySelectorAll(s), list = (items, f) => items.map(f).join("");
		const svg = name => `<svg viewBox="0 0 100 100" role="group" aria-label="${name}" fill="none" font-size="5" overflow="visible"></svg>`;
		root.innerHTML += `<div class="tk-controls"><button>It joins two pieces</button><button>It closes a loop</button>
<button>Back</button><button>Reset</button></div><p class="tk-reading" role="status" style="min-height:4.5em"></p>
<div class="tk-panels">${svg("Points: arrow keys move them")}${svg("Barcode of dimension 0")}</div>`;
		const [cloud, barcode] = all("svg"), [yes, no, back, reset] = all("button"), [text] = all(".tk-reading");
		const at = i => points[i].map((v, c) => c ? 95 - 15 * v : 5 + 15 * v), name = of => of.map(i => i + 1).join("–");
		const line = (of, stroke, more) => `<path d="M${of.map(at).join("L")}" stroke="${stroke}" ${more}/>`;
		let points = JSON.parse(start), edges = kruskal(points), guesses = [], held;
		cloud.innerHTML = "<g></g>" + list(points, (_, i) => `<g tabindex="0" role="button" data-i="${i}" style="touch-action:none">
<circle r="7" fill="#0000"/><circle r="2.4" fill="currentColor"/><text y="-4" text-anchor="middle"></text></g>`);

		function draw() {
			const step = guesses.length, past = edges.slice(0, step), now = past.at(-1), next = now?.last ? null : edges[step];
			const kept = past.filter(e => e.joins), right = past.filter((e, i) => e.joins === guesses[i]).length;
			const names = now?.names ?? [...points.keys()], eps = now?.length ?? 0, end = 1.1 * edges.find(e => e.last)?.length || 1;
			root.dataset.points = JSON.stringify(points);
			all("[data-i]").forEach((g, i) => {
				g.setAttribute("transform", `translate(${at(i)})`);
				g.ariaLabel = `Point ${i + 1} at ${points[i]}, in piece ${names[i] + 1}`;
				g.lastChild.textContent = names[i] === i ? i + 1 : `${i + 1}→${names[i] + 1}`;
			});
			cloud.firstChild.innerHTML = list(past, e => line(e.of, ...e.joins ? [H0, `data-kept="${name(e.of)}" stroke-width="1.8"`] :
				[GREY, `stroke-width=".5" stroke-dasharray="1.5"`])) + (next ? line(next.of, AMBER, `stroke-width="1.8" stroke-dasharray="3 2"`) : "");
			const X = v => 8 + 88 * Math.min(1, v / end), gone = kept.map(e => e.gone);
			const open = [...points.keys()].filter(i => !gone.includes(i)), bars = [...kept.map(e => [e.gone, e.length, e.length]),
				...open.map(i => [i, next ? eps : Infinity, next ? "open" : Infinity])];
			barcode.innerHTML = `<path stroke="${GREY}" stroke-width=".5" d="M8 92H98"/><text x="8" y="99">0</text>
<text x="60" y="99">ε = ${eps.toFixed(2)}</text><path stroke="${AMBER}" d="M${X(eps)} 2V92"/>` + list(bars, ([i, to, death], row) => {
				const y = 5 + 84 * row / points.length;
				return `<g data-death="${death}"><path d="M8 ${y}H${X(to) + .6}" stroke="${H0}" stroke-width="2"/><text x="1" y="${y + 1.8}">${i + 1}</text></g>`;
			});
			yes.disabled = no.disabled = !next;
			back.disabled = !step;
			text.textContent = (now ? `Edge ${name(now.of)}, length ${now.length.toFixed(2)}: ${now.joins === guesses[step - 1] ? "right" : "no"}, it ` +
				(now.joins ? `joins pieces ${name(now.leaders)}; bar ${now.gone + 1} ends. ` : `closes a loop in piece ${now.leaders[0] + 1}; nothing ends. `) : "") +
				(next ? `Next: edge ${name(next.of)}, length ${next.length.toFixed(2)}. ` : "The tree is complete. ") +
				`Pieces: ${points.length - kept.length}. Right: ${right} of ${step}.`;
		}
		const answer = joins => { guesses.push(joins); draw(); };
		const set = to => { points = to; edges = kruskal(points); guesses = []; draw(); };
		const move = (i, to) => set(points.map((p, j) => j === +i ? to.map(v => Math.round(10 * Math.min(6, Math.max(0, v))) / 10) : p));
		yes.onclick = () => answer(true);
		no.onclick = () => answer(false);
		back.onclick = () => { guesses.pop(); draw(); };
		reset.onclick = () => set(JSON.parse(start));
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
		draw();
	}
	document.querySelectorAll("[data-explorable=spanning_tree]").forEach(mount);
})();
