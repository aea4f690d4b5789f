// Begins: asks the server who and what, then puts the page together.

import { Api, type ServerSession } from "./api";
import { Decoder } from "./decoder/decoder";
import { backoff, sleep } from "./fetch";
import { Page } from "./page";
import { Sync } from "./sync";
import { applyTheme } from "./theme";
import { Notices } from "./ui/notices";
import { Workbench } from "./workbench";

applyTheme();
void begin();

async function begin(): Promise<void> {
  const api = new Api();
  const notices = new Notices(document.getElementById("notices")!);
  const server = await patientSession(api, notices);
  api.annotator = server.annotator_fixed ? "" : (localStorage.getItem("anymask/annotator") ?? "");
  const who = api.annotator || server.annotator;
  const decoder = new Decoder(api, server);
  const sync = new Sync(api, server.model.fingerprint, `anymask/untold/${document.baseURI}/${server.folder}/${who}`);
  new Page(api, server, decoder, sync, new Workbench(decoder, sync)).start();
}

async function patientSession(api: Api, notices: Notices): Promise<ServerSession> {
  for (let attempt = 0; ; attempt++) {
    try {
      const server = await api.session();
      notices.hide("start");
      return server;
    } catch (error) {
      notices.show("start", `The server cannot be reached: ${(error as Error).message}`, "warn", [{ text: "Reload", run: () => location.reload() }]);
      await sleep(backoff(attempt));
    }
  }
}
