// node dawn.mjs FOLDER: every .wgsl file below the folder through Chrome's WGSL compiler (Dawn with
// its null backend, which validates everything and runs nothing). Prints what is refused and, last,
// {"compiled": n, "refused": m}.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "webgpu";

const features = ["shader-f16", "subgroups"];
// Dawn does not survive the collection of this object as garbage while it is used.
globalThis.gpu = create(["backend=null"]);
const adapter = await gpu.requestAdapter();
const lacking = features.filter((f) => !adapter?.features.has(f));
if (!adapter || lacking.length > 0) {
  console.error(`Dawn's null backend lacks ${adapter ? lacking.join(" and ") : "an adapter"}`);
  process.exit(2);
}
const device = await adapter.requestDevice({ requiredFeatures: features });
const counts = { compiled: 0, refused: 0 };
for (const file of readdirSync(process.argv[2], { recursive: true }).sort()) {
  if (!file.endsWith(".wgsl")) continue;
  const text = readFileSync(join(process.argv[2], file), "utf8");
  // naga takes subgroup operations without the line that WGSL demands, and refuses the line.
  const code = /\bsubgroup/.test(text) ? `enable subgroups;\n${text}` : text;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((m) => m.type === "error");
  if (errors.length === 0) {
    // Limits of the baseline: bindings, invocations and memory of a workgroup.
    device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  }
  const scoped = await device.popErrorScope();
  counts.compiled += 1;
  if (errors.length > 0 || scoped) {
    counts.refused += 1;
    const first = errors[0];
    const line = first ? code.split("\n")[first.lineNum - 1]?.trim() : "";
    console.log(`${file}: ${first?.message ?? scoped.message}: ${line}`);
  }
}
console.log(JSON.stringify(counts));
// The device would keep the process alive.
process.exit(counts.refused > 0 ? 1 : 0);
