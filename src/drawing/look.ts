// How pages look: colours for light and dark, and what the drawings' classes mean.

export const LOOK = `
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #16202c; --quiet: #566373; --rule: #dfe4ea; --ground: #e9edf2;
  --accent: #1f5fd0; --on-accent: #ffffff; --bad: #b3261e;
  --compute: #2a9d6f; --wait: #e08a1e; --other: #aab4c0; --gpu: #7c4ddb; --dram: #2f7be5; --nvme: #139ba3;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f141a; --card: #182029; --ink: #e6ebf1; --quiet: #9aa7b6; --rule: #2a3440; --ground: #26303b;
    --accent: #7fb0ff; --on-accent: #0d1520; --bad: #ff8a80;
    --compute: #43c08d; --wait: #f0a545; --other: #5d6a78; --gpu: #a583f2; --dram: #64a4ff; --nvme: #3cc3ca;
  }
}
*, *::before, *::after { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 0.75rem; letter-spacing: 0.01em; }
h3 { font-size: 0.9rem; margin: 1rem 0 0.35rem; }
p { margin: 0.35rem 0; }
.quiet { color: var(--quiet); }
.number { font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 1rem 1.1rem; min-width: 0; }
.drawing { display: block; width: 100%; height: 100%; border-radius: 4px; }
.ground { fill: var(--ground); } .mark { fill: var(--ink); } .rate { fill: var(--accent); }
.compute { fill: var(--compute); } .wait { fill: var(--wait); } .other { fill: var(--other); }
.gpu { fill: var(--gpu); } .dram { fill: var(--dram); } .nvme { fill: var(--nvme); }
.area { fill: var(--accent); opacity: 0.18; }
.line { fill: none; stroke: var(--accent); stroke-width: 2; vector-effect: non-scaling-stroke; }
.key { width: 0.7rem; height: 0.7rem; border-radius: 2px; margin-right: 0.4rem; vertical-align: -0.05rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; padding: 0; margin: 0.6rem 0 0; font-size: 0.85rem; color: var(--quiet); }
.pair { display: flex; justify-content: space-between; gap: 0 0.75rem; flex-wrap: wrap; font-size: 0.9rem; }
.bar { height: 0.9rem; margin: 0.25rem 0 0.8rem; }
.gap { height: 0.8rem; }
.tall { height: 8.5rem; } .strip { height: 1.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.3rem 0.5rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.words { text-align: left; white-space: normal; min-width: 14rem; }
.scrolls { overflow-x: auto; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
summary { cursor: pointer; font-size: 0.9rem; }
`;
