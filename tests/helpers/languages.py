"""Prose in languages other than English, written for these tests: one paragraph a line."""

TEXTS = {
    "de": """\
Am Rand der kleinen Stadt steht eine alte Mühle, die seit vielen Jahren kein Korn mehr mahlt.
Der Müller hatte drei Söhne, aber keiner von ihnen wollte die schwere Arbeit übernehmen.
Heute gehört das Haus einer Lehrerin, die im Erdgeschoss eine Bücherei eingerichtet hat.
Jeden Samstag kommen die Kinder aus den Dörfern und lesen dort bis zum Abend.
Im Winter heizt sie den großen Ofen, und es riecht nach Holz und nach Äpfeln.
„Ein Buch ist wie ein Fenster“, sagt sie, „man muss nur den Vorhang zur Seite schieben.“
Manche Kinder glauben ihr das sofort, andere erst nach der dritten Geschichte.""",
    "ar": """\
في طرف القرية الصغيرة بيت قديم تحيط به أشجار الزيتون من كل جانب.
كانت الجدة تجلس كل مساء أمام الباب وتحكي للأطفال عن رحلاتها في البحر.
قالت لهم إن السفينة لا تخاف من الموج إذا عرف البحار طريق النجوم.
هل تعرفون لماذا يعود الطائر إلى العش نفسه في كل ربيع؟
فكر الأولاد قليلا ثم قالوا إنه يحب المكان الذي ولد فيه.
ضحكت الجدة وأعطت كل واحد منهم حبة تمر وكوبا من الحليب الدافئ.
وفي الصباح ذهبوا معها إلى السوق ليشتروا الخبز والجبن والعسل.
كان الطريق طويلا ولكنهم لم يشعروا بالتعب لأن القصص كانت ترافقهم.""",
    "zh": """\
村子東邊有一座小橋，橋下的河水一年四季都很清。
老木匠每天早上從橋上走過，手裡提著一個裝滿工具的箱子。
他說木頭和人一樣，有自己的脾氣，不能太著急。
孩子們放學以後常常跑到他的院子裡，看他做椅子和桌子。
有一天下大雨，河水漲得很高，橋上的木板被沖走了三塊。
「沒有橋，我們怎麼去學校？」最小的女孩問。
老木匠沒有回答，只是拿起斧頭，帶著大家走進樹林。
兩天以後，新的木板已經釘好，上面還刻著每個孩子的名字。
從此以後，他們走過小橋的時候總會低頭看一看。""",
    "ja": """\
山のふもとに小さな郵便局があり、毎朝七時に戸が開く。
局長の田中さんは、この村で三十年も手紙を配っている。
雪の日でも自転車を押して、一軒ずつ声をかけて歩く。
「今日は息子さんから葉書が来ていますよ」と言うと、おばあさんは嬉しそうに笑った。
最近は手紙を書く人が少なくなり、鞄も軽くなってしまった。
それでも田中さんは、誰かが待っている限り仕事を続けるつもりだ。
春になると、子どもたちが学校で書いた絵葉書をたくさん持ってくる。
その日だけは鞄が重くて、坂道を登るのに時間がかかる。""",
}
