// The same turn as a virtual object of Restate: read the state, do one thing that is journaled, write the state.
import * as restate from "@restatedev/restate-sdk";

// Node 20 has none, and the SDK asks for it when the first request comes.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
};

const turn = restate.object({
  name: "turn",
  handlers: {
    run: async (ctx, message) => {
      const before = (await ctx.get("analysis")) ?? { turns: 0 };
      const said = await ctx.run("say", () => `turn ${before.turns + 1} on ${message}`);
      ctx.set("analysis", { turns: before.turns + 1 });
      return said;
    },
  },
});

restate.serve({ services: [turn], port: Number(process.argv[2]) });
