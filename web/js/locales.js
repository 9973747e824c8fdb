/** What packs bring in a language, told once more: front ends about 1.32 forget it when they load the language (ComfyUI_frontend, issue 6748). */

import { app } from "../../../scripts/app.js"

app.registerExtension({
    name: "CompositionalInversion.Locales",
    async init() {
        const page = document.querySelector("#vue-app")?.__vue_app__
        const messages = page?._context.provides[page.__VUE_I18N_SYMBOL__]?.global
        if (!messages) return
        const brought = await app.api.getCustomNodesI18n()
        const tell = locale => messages.mergeLocaleMessage(locale, brought[locale] ?? {})
        const load = messages.setLocaleMessage
        messages.setLocaleMessage = (locale, whole) => {
            load(locale, whole)
            tell(locale)
        }
        Object.keys(brought).forEach(tell)
    }
})
