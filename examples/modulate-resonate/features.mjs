// What features.py does, with the TypeScript SDK:
//
//	RESONATE_URL=http://127.0.0.1:8700 node features.mjs ID [--hold]
import { Resonate } from "@resonatehq/sdk";

const resonate = new Resonate({ url: process.env.RESONATE_URL, group: "features-ts", ttl: 3000 });
let noted;
const detached = new Promise((resolve) => { noted = resolve; });

function held() {
	console.log("held");
	return new Promise(() => {});
}

resonate.register("double", (ctx, n) => 2 * n);
resonate.register("note", () => { noted(); return "noted"; });
resonate.register("workflow", function* (ctx, n) {
	n = yield* ctx.run(process.argv[3] ? held : (ctx, n) => 2 * n, n);
	n = yield* ctx.rpc("double", n, ctx.options({ target: "features-ts" }));
	yield* ctx.sleep(1200);
	yield* ctx.detached("note", ctx.options({ target: "features-ts" }));
	const answer = yield* ctx.promise();
	console.log("promise", answer.id);
	return [n, yield* answer];
});

const result = await resonate.rpc(process.argv[2], "workflow", 10, resonate.options({ target: "features-ts" }));
await detached;
console.log("result", JSON.stringify(result));
await resonate.stop();
process.exit(0);
