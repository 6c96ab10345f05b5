// The same turn as a Durable Object with SQLite: read the document, append what came and what is said, write the document.
export class Turn {
  constructor(state) {
    this.sql = state.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS slot (name TEXT PRIMARY KEY, content TEXT)");
    this.sql.exec("CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, entry TEXT)");
  }

  async fetch(request) {
    const message = await request.text();
    const [row] = this.sql.exec("SELECT content FROM slot WHERE name = 'analysis'").toArray();
    const turns = row ? JSON.parse(row.content).turns + 1 : 1;
    this.sql.exec("INSERT INTO journal (entry) VALUES (?)", message);
    this.sql.exec("INSERT INTO journal (entry) VALUES (?)", `turn ${turns}`);
    this.sql.exec("INSERT OR REPLACE INTO slot VALUES ('analysis', ?)", JSON.stringify({ turns }));
    // It leaves when all of this is on disk.
    return new Response(`turn ${turns}`);
  }
}

export default {
  fetch(request, env) {
    const id = env.TURNS.idFromName(new URL(request.url).pathname);
    return env.TURNS.get(id).fetch(request);
  },
};
